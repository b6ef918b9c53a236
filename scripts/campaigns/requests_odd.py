"""Something odd to add to a request: right, nearly right or absurd."""

from __future__ import annotations

from hypothesis import strategies as st

_ODD = [
    "",
    "null",
    "''",
    "[]",
    "{}",
    "abc",
    "-1",
    "0",
    "1e400",
    "nan",
    "inf",
    "-inf",
    "0x10",
    "1.5",
    "true",
    "???",
    "ä",
]
_ODD += [
    "[",
    "${n}",
    "${nope}",
    "${oc.env:HOME}",
    "[null]",
    "[a,b",
    "{a:1}",
    "1_000",
    "' '",
    "a=b",
    "../x",
    "/",
    "\\",
    "$",
]
_NUMBERS = ["1", "2", "3", "7", "64", "100", "0.05", "0.1", "0.4999", "0.5", "1e-300", "-0.0", "5e-324"]
_LISTS = [
    "[0.4]",
    "[0.2,0.4]",
    "[1,1]",
    "[0]",
    "[-1]",
    "[nan]",
    "[inf]",
    "[1e-300]",
    "[1e300]",
    "[abc]",
    "[[1]]",
    "[0.4,]",
]
_NAMES = [
    "tv",
    "l2",
    "[tv,l2]",
    "[tv,tv]",
    "[jaccard]",
    "[lpips]",
    "autoencoder",
    "[autoencoder,reconstructor]",
    "[mtcnn]",
    "mean",
    "[mean]",
    "[center_free,center]",
    "measured",
    "local",
    "augment",
    "[none,augment]",
    "gaussian",
]
_NAMES += [
    "[os:getcwd]",
    "os:nope",
    "nope:nope",
    ":",
    "a:",
    ":b",
    "[torch.nn:Identity]",
    "json:loads",
    "builtins:object",
]
_KEYS = (
    "n m n0 delta alpha1 alpha2 seed batch_size forward_block points.count points.start train.epochs train.images "
    "train.batch_size grid.eps grid.h grid.scale models metrics model metric certifiers certifier rule noise "
    "noise.name device budget data.name data.path train.method weights weights.dcgan name title experiment out "
    "nope train nope.nope hydra.run.dir +new ++n ~n ~grid +noise.new"
).split()
_CHEAP = {"train.epochs": ["1", "2"], "train.images": ["1", "50"], "points.count": ["1", "2"], "name": ["x", "a b"]}
"""Where a large right value would only cost time."""


def _overrides() -> st.SearchStrategy[str]:
    def of(key: str) -> st.SearchStrategy[str]:
        values = _CHEAP.get(key, _NUMBERS + _LISTS + _NAMES) + _ODD
        text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
        return st.one_of(st.sampled_from(values), text).map(lambda value: f"{key}={value}")

    return st.sampled_from(_KEYS).flatmap(of)


odd_requests = st.lists(
    st.one_of(_overrides(), st.sampled_from(["--dry-run", "n", "=", "", "~", "--", "-x"])), min_size=1, max_size=3
)
"""Settings and flags to add to a request, in full or in part absurd."""
