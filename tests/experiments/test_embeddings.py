"""Class probabilities and embeddings as base models, and prototypes that come with a model, in cs-run."""

from __future__ import annotations

import pytest
import torch
from running import run_in
from support import ask

from centersmooth import Budget, GaussianNoise, Prototypes
from centersmooth.gathering import Setting
from csrun.certifiers import prototypes
from csrun.data import load_data
from csrun.errors import RunError
from csrun.models import Custom, build_model, model_spec
from csrun.models.builders import SHOTS
from csrun.models.embeddings import support_of
from csrun.report.tables import read_rows

FEW = ("train.images=50", "points.count=1", "grid.scale=[0.25]")
DIGITS = (
    "data=digits",
    "budget=smoke",
    "points.count=2",
    "n=50",
    "m=1000",
    "workers=1",
    "grid.eps=[0.05,0.1]",
    "grid.h=null",
    "grid.scale=[0.25]",
)
TRAIN = ("train.epochs=4", "train.images=600", "train.batch_size=50")


def test_probabilities_are_the_softmax_of_the_scores_it_is_trained_by():
    model = build_model(model_spec("lenet_probabilities"), load_data("digits", None), {}, GaussianNoise(1.0), "cpu")
    images = torch.rand(3, 1, 8, 8)
    scores, probabilities = model.train()(images), model.eval()(images)
    assert torch.allclose(scores.softmax(1), probabilities)
    assert not torch.allclose(scores, probabilities)
    assert model.output_range == (0.0, 1.0)


def test_prototypes_are_mean_embeddings_of_the_first_examples_of_each_class():
    data = load_data("digits", None)
    model = build_model(model_spec("protonet"), data, {}, GaussianNoise(1.0), "cpu").eval()
    labels = data.targets(data.train, range(200))
    threes = data.images(data.train, (labels == 3).nonzero()[:SHOTS, 0].tolist())
    mean = model(threes).mean(0)
    assert torch.allclose(model.prototypes[3], mean / mean.norm(), atol=1e-6)
    assert torch.allclose(model(threes).norm(dim=1), torch.ones(SHOTS))
    assert torch.allclose(model.train()(threes), 10 * model.eval()(threes) @ model.prototypes.T, atol=1e-5)


def test_a_class_without_enough_examples_has_no_support():
    assert support_of(torch.zeros(5, 2), torch.tensor([0, 0, 1, 1, 1]), 2, 3) is None
    assert support_of(torch.zeros(5, 2), torch.tensor([0, 0, 1, 1, 1]), 2, 2).shape == (2, 2, 2)


def test_prototypes_of_a_model_are_certified(tmp_path):
    done = run_in(tmp_path, "experiment=prototypes_mnist", *DIGITS, *TRAIN, figures=False)
    rows = read_rows(done.folder)
    assert set(rows["rule"]) == set(Prototypes.rules)
    assert set(rows["about"]) == {"map"}
    cdf = rows[(rows["rule"] == "cdf") & (rows["outcome"] == "certified")]
    assert len(cdf)
    assert ((cdf["radius"] == 0) == (cdf["eps"] <= cdf["reach"] * (1 + 1e-5))).all()
    assert cdf["target"].notna().all()


def test_scores_and_classes_from_the_same_draws(tmp_path):
    done = run_in(tmp_path, "experiment=score_mnist", *DIGITS, *TRAIN, figures=False)
    rows = read_rows(done.folder)
    scores = rows[rows["certifier"] == "score"]
    assert set(scores["rule"]) == {"two_point", "cdf"}
    assert ((scores["score_low"] <= scores["score"]) & (scores["score"] <= scores["score_high"])).all()
    assert (scores["radius"] >= scores["score"] - scores["score_low"]).all()
    of_rule = {rule: one.set_index(["point", "eps"])["radius"] for rule, one in scores.groupby("rule")}
    assert (of_rule["cdf"] <= of_rule["two_point"]).all()
    assert set(rows[rows["certifier"] == "label"]["rule"]) >= {"counts_run", "counts"}


def test_a_model_without_prototypes_is_refused_in_one_line(tmp_path):
    with pytest.raises(RunError, match=r"certifiers has prototypes: expected a model with prototypes, such as"):
        run_in(
            tmp_path,
            "experiment=tv_digits",
            "certifiers=[prototypes]",
            "train.images=50",
            "grid.eps=[0.5]",
            figures=False,
        )


def test_a_model_without_a_range_has_no_scores(tmp_path):
    answer = ask("experiment=label_digits", "certifiers=[score]", "budget=smoke", *FEW, cwd=tmp_path)
    assert answer.returncode == 2
    assert "certifiers has score, which cannot be served: output_range is None" in answer.stderr
    assert answer.stderr.count("\n") == 1


def test_a_model_of_ones_own_brings_its_prototypes():
    def embed(inputs):
        return torch.nn.functional.normalize(inputs, dim=1)

    assert Custom(embed).prototypes is None
    embed.prototypes = torch.eye(2)
    assert torch.equal(Custom(embed).prototypes, torch.eye(2))


def test_counts_are_refused_by_no_prototypes_before_there_is_a_model():
    few = Setting(GaussianNoise(1.0), Budget(n=10, m=10))
    assert prototypes().problem(few, "half_spaces", 3.0) == ""
    assert "too few" in prototypes(torch.eye(2)).problem(few, "half_spaces", 3.0)
