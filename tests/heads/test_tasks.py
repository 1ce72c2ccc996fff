import pytest
import torch

from picpoint.encoders.dgcnn import Dgcnn, DgcnnConfig
from picpoint.encoders.pointnext import POINTNEXT_S, PointNext
from picpoint.heads.tasks import DGCNN_CLASSIFIER, POINTNEXT_CLASSIFIER, Classifier


@pytest.mark.parametrize(
    ("encoder", "config", "published"),
    [
        (PointNext(POINTNEXT_S, 2), POINTNEXT_CLASSIFIER, 1_373_512),
        (Dgcnn(DgcnnConfig(), 2), DGCNN_CLASSIFIER, 1_809_576),
    ],
)
def test_encoder_and_classifier_of_40_classes_have_the_published_parameters(
    encoder, config, published
):
    head = Classifier(encoder.pooled_width, 40, config, 2)
    parameters = [*encoder.parameters(), *head.parameters()]
    assert sum(parameter.numel() for parameter in parameters) == published


@pytest.mark.parametrize("config", [POINTNEXT_CLASSIFIER, DGCNN_CLASSIFIER])
def test_slots_without_a_shape_leave_the_other_scores_alone(config):
    torch.manual_seed(0)
    head = Classifier(16, 5, config, ghost_batch=4)
    pooled = torch.randn(8, 16)
    valid = torch.tensor([True, True, False, True, True, True, True, False])
    spoiled = pooled.masked_fill(~valid[:, None], 1e6)
    scores = []
    for features in (pooled, spoiled):
        torch.manual_seed(1)  # the same features are dropped
        scores.append(head(features, valid)[valid])
    assert torch.equal(*scores)


def test_dropout_is_for_training_only():
    torch.manual_seed(0)
    head = Classifier(16, 5, POINTNEXT_CLASSIFIER, ghost_batch=2).eval()
    pooled = torch.randn(4, 16)
    assert torch.equal(head(pooled), head(pooled))
