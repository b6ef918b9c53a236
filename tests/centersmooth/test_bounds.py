"""The confidence bounds against scipy.stats, counted up from one, and against the counts the documentation promises."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import betainc
from scipy.stats import beta, binom, norm

from centersmooth import GaussianNoise
from centersmooth import bounds as bounds_module
from centersmooth.bounds import EXACT, PAPER, Bounds, ExactBounds, PaperBounds, half_count

BOTH = pytest.mark.parametrize("bounds", [PAPER, EXACT], ids=lambda b: b.name)
alphas = st.sampled_from([0.001, 0.0025, 0.005, 0.05, 0.1, 0.3])
masses = st.floats(0.5, 0.999)
counts = st.integers(1, 400)


def shifted(delta: float, h: float) -> float:
    return GaussianNoise(1.0).required_mass(0.5 + delta, h)


@given(n=st.integers(1, 10_000))
def test_half_count_is_the_least_integer_of_half(n: int) -> None:
    """ceil(n/2), for odd and even n."""
    assert half_count(n) == math.ceil(n / 2)


@given(m=counts, mass=masses, alpha=alphas)
def test_exact_rank_is_the_least_that_the_binomial_law_allows(m: int, mass: float, alpha: float) -> None:
    """Brute force over all ranks; None exactly where none does."""
    allowed = [j for j in range(1, m + 1) if binom.sf(j - 1, m, mass) <= alpha * (1 - 1e-9)]
    assert EXACT.upper_rank(m, mass, alpha) == (allowed[0] if allowed else None)


@given(m=counts, mass=masses, alpha=alphas)
def test_paper_rank_is_equation_5(m: int, mass: float, alpha: float) -> None:
    """ceil(q*m), and None exactly where q > 1."""
    q = mass + math.sqrt(math.log(1 / alpha) / (2 * m))
    assert PAPER.upper_rank(m, mass, alpha) == (math.ceil(q * m) if q <= 1 else None)


@given(inside=st.integers(0, 400), extra=st.integers(0, 400), alpha=alphas)
def test_exact_floor_is_clopper_pearson(inside: int, extra: int, alpha: float) -> None:
    """The mass at which `inside` or more of n has probability exactly alpha."""
    n = max(1, inside + extra)
    floor = EXACT.mass_floor(inside, n, alpha)
    if inside == 0:
        assert floor == 0
    else:
        assert floor == pytest.approx(beta.ppf(alpha, inside, n - inside + 1), rel=1e-9)
        assert binom.sf(inside - 1, n, floor) == pytest.approx(alpha, rel=1e-6)


@given(inside=st.integers(0, 400), extra=st.integers(0, 400), alpha=alphas)
def test_paper_floor_is_hoeffding(inside: int, extra: int, alpha: float) -> None:
    """With alpha = alpha1/2 it is frac - Delta1 of Algorithm 1."""
    n = max(1, inside + extra)
    assert PAPER.mass_floor(inside, n, alpha) == pytest.approx(inside / n - math.sqrt(math.log(1 / alpha) / (2 * n)))


@given(n=counts, alpha=alphas)
def test_exact_margin_is_the_least_one(n: int, alpha: float) -> None:
    """At the margin Pr[Bin(n, 1/2 + margin) < ceil(n/2)] is alpha; a hair less and it is above."""
    margin, k = EXACT.center_margin(n, alpha), half_count(n)
    assert binom.cdf(k - 1, n, 0.5 + margin) <= alpha
    assert binom.cdf(k - 1, n, 0.5 + margin - 1e-6) > alpha


@BOTH
@given(n=counts, alpha=alphas)
def test_margin_covers_half_of_the_sample(bounds: Bounds, n: int, alpha: float) -> None:
    """Lemma 1: a ball of mass 1/2 + margin holds half of n draws except with probability alpha."""
    mass = 0.5 + bounds.center_margin(n, alpha)
    assert mass >= 1 or binom.cdf(half_count(n) - 1, n, mass) <= alpha


@BOTH
@given(m=counts, mass=masses, alpha=alphas)
def test_rank_covers_the_mass(bounds: Bounds, m: int, mass: float, alpha: float) -> None:
    """Lemma 2 for either bounds: too small a ball with probability at most alpha."""
    rank = bounds.upper_rank(m, mass, alpha)
    assert rank is None or (1 <= rank <= m and binom.sf(rank - 1, m, mass) <= alpha)


@given(n=counts, alpha=alphas, mass=masses, share=st.floats(0, 1))
def test_exact_is_never_worse_than_paper(n: int, alpha: float, mass: float, share: float) -> None:
    """A smaller margin, a larger floor, a lower rank: whatever paper bounds accept, exact ones do."""
    assert EXACT.center_margin(n, alpha) <= PAPER.center_margin(n, alpha)
    inside = round(share * n)
    assert EXACT.mass_floor(inside, n, alpha) >= PAPER.mass_floor(inside, n, alpha)
    paper, exact = PAPER.upper_rank(n, mass, alpha), EXACT.upper_rank(n, mass, alpha)
    assert paper is None or (exact is not None and exact <= paper)


@BOTH
@given(m=counts, mass=masses, alpha=alphas, step=st.floats(0, 0.2))
def test_monotone(bounds: Bounds, m: int, mass: float, alpha: float, step: float) -> None:
    """More mass or less risk never lowers a rank; more draws around a center never lower its floor."""
    rank = bounds.upper_rank(m, mass, alpha) or m + 1
    assert (bounds.upper_rank(m, min(1.0, mass + step), alpha) or m + 1) >= rank
    assert (bounds.upper_rank(m, mass, alpha / 2) or m + 1) >= rank
    inside = m // 2
    assert bounds.mass_floor(inside, m, alpha) <= bounds.mass_floor(inside + 1, m + 1, alpha)
    assert bounds.center_margin(m + 2, alpha) <= bounds.center_margin(m, alpha)


@pytest.mark.parametrize(
    ("delta", "h", "m"),
    [
        (0.05, 1, 157), (0.05, 1.5, 980), (0.05, 2, 9_425),
        (0.08, 1, 202), (0.08, 1.5, 1_345), (0.08, 2, 13_838),
        (0.1, 1, 241), (0.1, 1.5, 1_675), (0.1, 2, 18_039),
    ],
)  # fmt: skip
def test_paper_counts_of_the_documentation(delta: float, h: float, m: int) -> None:
    """q <= 1 from exactly these m on, at alpha2 = 0.005."""
    assert PAPER.least_m(shifted(delta, h), 0.005) == m


@pytest.mark.parametrize(("h", "m"), [(1, 38), (1.5, 100), (2, 314), (3, 5_971)])
def test_exact_counts_of_the_documentation(h: float, m: int) -> None:
    """The least m with p**m <= 0.005, by the definition."""
    mass = shifted(0.05, h)
    assert EXACT.least_m(mass, 0.005) == m
    assert mass**m <= 0.005 < mass ** (m - 1)


def test_paper_needs_1199_draws_at_the_default_margin() -> None:
    """Delta1 <= 0.05 at alpha1 = 0.005; exact bounds need fewer."""
    assert PAPER.least_n(0.05, 0.0025) == 1_199
    assert EXACT.least_n(0.05, 0.0025) < 1_199


@BOTH
@given(margin=st.floats(0.03, 0.45), alpha=alphas)
def test_least_n_is_least(bounds: Bounds, margin: float, alpha: float) -> None:
    """That n does, no smaller one does; the exact rule names even numbers, so it says 2 where 1 would do."""
    n = bounds.least_n(margin, alpha)
    assert bounds.center_margin(n, alpha) <= margin
    assert all(bounds.center_margin(fewer, alpha) > margin for fewer in range(max(1, n - 4), n) if n > 2)


@BOTH
@given(mass=st.floats(0.5, 0.9999), alpha=alphas)
def test_least_m_is_least(bounds: Bounds, mass: float, alpha: float) -> None:
    """That m has a rank, and one fewer has none."""
    m = bounds.least_m(mass, alpha)
    assert bounds.upper_rank(m, mass, alpha) is not None
    assert m == 1 or bounds.upper_rank(m - 1, mass, alpha) is None


@BOTH
def test_no_count_would_do_at_full_mass(bounds: Bounds) -> None:
    """Mass 1 is asked for when eps is far above sigma: there is no number to name."""
    assert bounds.least_m(1.0, 0.005) is None
    assert bounds.upper_rank(10**6, 1.0, 0.005) is None


@BOTH
@pytest.mark.parametrize("margin", [1e-4, 1e-6, 1e-8])
def test_least_n_answers_for_tiny_margins(bounds: Bounds, margin: float) -> None:
    """A careless delta gets a number, however large, never an exception."""
    n = bounds.least_n(margin, 0.0025)
    assert bounds.center_margin(n, 0.0025) <= margin
    assert bounds.center_margin(math.floor(0.9 * n), 0.0025) > margin


@pytest.mark.parametrize("base", [PaperBounds, ExactBounds], ids=lambda b: b.name)
@pytest.mark.parametrize("missing", [1e-6, 2e-9])
def test_least_m_is_found_in_few_steps(base: type[Bounds], missing: float) -> None:
    """At eps far above sigma the count is in the billions: a message must not take seconds to write."""

    class Counting(base):
        calls = 0

        def upper_rank(self, m: int, mass: float, alpha: float) -> int | None:
            type(self).calls += 1
            assert self.calls <= 10_000
            return super().upper_rank(m, mass, alpha)

    m = Counting().least_m(1 - missing, 0.005)
    assert base().upper_rank(m, 1 - missing, 0.005) is not None


def test_a_required_mass_is_a_probability() -> None:
    """Rounded up, but not above 1."""
    assert GaussianNoise(1.0).required_mass(0.5, 50.0) == 1.0


@given(eps=st.floats(0, 5), mass=st.floats(0.5, 0.99))
def test_required_mass_is_the_gaussian_shift(eps: float, mass: float) -> None:
    """Equation 4, never rounded down."""
    required = GaussianNoise(2.0).required_mass(mass, eps)
    assert required == pytest.approx(norm.cdf(norm.ppf(mass) + eps / 2), rel=1e-9)
    assert required <= 1
    assert required >= norm.cdf(norm.ppf(mass) + eps / 2) * (1 - 1e-15)


@pytest.mark.parametrize("margin", [1e-10, 0.0])
def test_no_count_would_do_for_no_margin(margin: float) -> None:
    assert PAPER.least_n(margin, 0.0025) is None
    assert EXACT.least_n(margin, 0.0025) is None


def test_masses_are_rounded_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank that the special function's last digits made too low would be no bound."""
    asked = []

    def record(j: float, others: float, p: float) -> float:
        asked.append(p)
        return betainc(j, others, p)

    monkeypatch.setattr(bounds_module, "betainc", record)
    assert EXACT.upper_rank(1_000, 0.87, 0.005) is not None
    assert all(0.87 * (1 + 1e-13) < p < 0.87 * (1 + 1e-11) for p in asked)


@pytest.mark.parametrize("alpha", [0.001, 0.005, 0.1])
@pytest.mark.parametrize("n", [50, 1_000, 10_000])
def test_masses_and_margins_are_rounded_outward(n: int, alpha: float) -> None:
    """At the limit itself the bound fails with probability just below alpha: rounded inward, it would be above."""
    inside = round(0.7 * n)
    assert binom.sf(inside - 1, n, EXACT.mass_floor(inside, n, alpha)) < alpha
    margin = PAPER.center_margin(n, alpha)
    assert math.exp(-2 * n * margin**2) < alpha
