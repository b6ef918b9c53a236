"""Budgets, outcomes, answers and certificates: the input and output of certification."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import Enum
from typing import Literal

from torch import Tensor

from centersmooth.bounds import Bounds
from centersmooth.checks import a_number, an_integer
from centersmooth.outputs import brief_repr


class Outcome(Enum):
    """Outcome of the certification of one point: its value names it in tables, `message` explains it."""

    CERTIFIED = "certified"
    BAD_CENTER = "bad_center"
    RATIO_EXCEEDED = "ratio_exceeded"
    INFEASIBLE = "infeasible"
    FAILED = "failed"

    @property
    def message(self) -> str:
        """One sentence for people."""
        return _MESSAGES[self]


_MESSAGES = {
    Outcome.CERTIFIED: "certified: at most alpha2 of all runs, abstentions included, state a radius that fails",
    Outcome.BAD_CENTER: "abstained: too few fresh draws fell around the center; more n or a larger delta would help",
    Outcome.RATIO_EXCEEDED: "abstained: the center's ball is too large against the least possible one",
    Outcome.INFEASIBLE: "not attempted: the counts are too small for this eps; more m, or a smaller eps/sigma",
    Outcome.FAILED: "failed: the model or the metric raised an error on this point",
}


LEAST_ALPHA = 1e-301
"""Shares of smaller failure probabilities are not computed reliably."""


@dataclass(frozen=True)
class Budget:
    """Numbers of draws and failure probabilities of a certificate.

    Parameters
    ----------
    n : int
        Draws for the center, and as many fresh ones for its test. An even number is best.
    m : int
        Fresh draws for the radius; the draws of the center's test count among them.
    delta : float
        Slack of the center's mass, in (0, 1/2): a larger one needs fewer draws and costs radius.
    alpha1 : float
        Failure probability of the smoothed output, at ``x'``.
    alpha2 : float
        Failure probability of the radius, at ``x``.
    n0 : int
        0: all ``n`` draws are candidates (Smooth). Above 0: that many separate candidates (Smooth-HD).

    Examples
    --------
    >>> Budget(n=2_000, m=4_000, delta=0.08).alpha
    0.01
    """

    n: int = 10_000
    m: int = 1_000_000
    delta: float = 0.05
    alpha1: float = 0.005
    alpha2: float = 0.005
    n0: int = 0

    def __post_init__(self) -> None:
        for name, least in (("n", 1), ("m", 1), ("n0", 0)):
            object.__setattr__(self, name, an_integer(name, getattr(self, name), least))
        for name, what in (("delta", "a number"), ("alpha1", "a probability"), ("alpha2", "a probability")):
            low = 0.0 if name == "delta" else LEAST_ALPHA
            value = a_number(name, getattr(self, name), low, 0.5, f"{what} strictly between {low:g} and 1/2")
            object.__setattr__(self, name, value)

    @classmethod
    def quick(cls) -> Budget:
        """Counts for a first look: seconds with a small model, certificates up to ``h = eps/sigma = 2``.

        >>> Budget.quick()
        Budget(n=1200, m=2500, delta=0.1, alpha1=0.005, alpha2=0.005, n0=0)
        """
        return cls(n=1_200, m=2_500, delta=0.1)

    @classmethod
    def paper(cls) -> Budget:
        """The paper's counts, the defaults: 10,000 draws for the center and a million for the radius."""
        return cls()

    def accepts_center(self, inside: int, bounds: Bounds) -> bool:
        """The test of Algorithm 1: whether the ball holds at least ``1/2 - delta``, w.p. ``>= 1 - alpha1/2``.

        Half of ``alpha1`` is spent here, the other half on how large the ball at ``x'`` can be (docs/guarantee.md).
        The mass is then *above* the floor, which makes the two balls of theorem 2 overlap also where their masses add
        up to exactly 1.
        """
        return bounds.mass_floor(inside, self.n, self.alpha1 / 2) >= 0.5 - self.delta

    @property
    def alpha(self) -> float:
        """``alpha1 + alpha2``, before what Smooth-HD adds for missing candidates."""
        return self.alpha1 + self.alpha2

    @property
    def fresh_draws(self) -> int:
        """Draws after the center is fixed: the first ``n`` test it, the first ``m`` give the radius."""
        return max(self.n, self.m)

    @property
    def passes(self) -> int:
        """Forward passes of one certificate, the unperturbed input included."""
        return 1 + self.n0 + self.n + self.fresh_draws

    @property
    def passes_of_smooth(self) -> int:
        """Forward passes of one smoothed output, the unperturbed input included."""
        return 1 + self.n0 + 2 * self.n


@dataclass(frozen=True)
class Smoothed:
    """The smoothed model's answer at one input.

    Attributes
    ----------
    answer : Tensor, shape ``(*out)``
        What the draws chose, also where the smoothed model abstains.
    abstained : bool
        Whether the draws are too few or too scattered for an answer; then `output` is None.
    base : Tensor, shape ``(*out)``
        The base model's output at the unperturbed input.
    error : float
        The smoothing error, distance of `base` to `answer`.
    """

    answer: Tensor
    abstained: bool
    base: Tensor
    error: float

    def __repr__(self) -> str:
        return brief_repr(self)

    @property
    def output(self) -> Tensor | None:
        """The output to ship: the answer, or None where the smoothed model abstains."""
        return None if self.abstained else self.answer


About = Literal["run", "map"]
"""Which answer a statement is about: that of a fresh run of the smoothed model, or the exact smoothed function's."""


@dataclass(frozen=True)
class Certificate:
    """A statement about one input ``x`` and one ``eps``; `Smoother.certify` says which.

    Attributes
    ----------
    eps : float
        Size of the perturbations, in the unit of the threat.
    outcome : Outcome
    radius : float or None
        How far the answer can move; None unless certified.
    vacuous : bool
        Whether `radius` is the diameter of the output space, so that it says nothing.
    answer : Tensor or None, shape ``(*out)``
        The smoothed output the radius is about, kept so that the certificate can be audited.
    alpha : float
        Sum of all failure probabilities spent.
    certifier, rule : str
        Names of what made it, as in rows.
    about : {"run", "map"}
        Which answer at ``x'`` it speaks of: that of a fresh run, or that of the exact smoothed function.
    threat : str
        The unit of ``eps``.
    reason : str
        One line where there is no radius, or where the rule gave way to a simpler one; else empty.
    m : int or None
        The number of fresh draws, where a tolerance chose it or a rule stopped them; None where it is the budget's.
    """

    eps: float
    outcome: Outcome
    radius: float | None
    vacuous: bool
    answer: Tensor | None
    alpha: float
    certifier: str
    rule: str
    about: About
    threat: str
    reason: str = ""
    m: int | None = None

    @property
    def details(self) -> dict[str, float | str | bool | None]:
        """Further numbers of a certificate of its kind, by name; tensors are left out."""
        common = {field.name for field in fields(Certificate)}
        own = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in common}
        return {name: value for name, value in own.items() if not isinstance(value, Tensor)}

    def __repr__(self) -> str:
        stated = {name: held for name, held in vars(self).items() if isinstance(held, Tensor) or held not in (None, "")}
        return brief_repr(self, **stated)

    def __str__(self) -> str:
        """One sentence for people; `repr` has every number that is stated."""
        if self.radius is None:
            return f"no certificate at eps = {self.eps:g}: {self.reason or self.outcome.message}"
        nothing = ", which is the whole output space" if self.vacuous else ""
        subject = "a fresh smoothed answer" if self.about == "run" else "the smoothed function"
        exception = f", except with probability {self.alpha:.3g}" if self.alpha else ""
        return (
            f"for every input within eps = {self.eps:g} ({self.threat}) {subject} stays within {self.radius:.4g} of "
            f"the answer here{nothing}{exception}"
        )


@dataclass(frozen=True, repr=False)
class CenterCertificate(Certificate):
    """A certificate about centers.

    Attributes
    ----------
    r_center : float or None
        Median distance of the center to its own sample.
    r_hat : float or None
        Radius of the ball around the center that keeps its mass for every ``x'``.
    r_far : float or None
        Bound on the median distance the smoothed model finds at any ``x'``.
    beta : float or None
        Ratio of ``r_far`` to ``r_hat`` where the rule fixes one.
    """

    r_center: float | None = None
    r_hat: float | None = None
    r_far: float | None = None
    beta: float | None = None
