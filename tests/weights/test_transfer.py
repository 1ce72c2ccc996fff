import pytest

from picpoint.encoders.dgcnn import Dgcnn, DgcnnConfig
from picpoint.encoders.pointnext import POINTNEXT_S, PointNext
from picpoint.task_model import PartsNetwork, ScenesNetwork
from picpoint.weights.transfer import TransferRefusedError, transfer_weights


@pytest.mark.parametrize(
    "build",
    [
        lambda: PartsNetwork(DgcnnConfig(), 16, 50, 3, ghost_batch=2),
        lambda: ScenesNetwork(DgcnnConfig(), 13, 9, ghost_batch=2),
    ],
    ids=["parts", "scenes"],
)
def test_the_norm_of_another_layer_is_not_taken_for_a_pre_trained_encoder(build):
    """DGCNN's wide layers have the same name and width; what they are fed has not."""
    network = build().trunk
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = {name: value + 1 for name, value in Dgcnn(DgcnnConfig(), 2).state_dict().items()}
    with pytest.raises(TransferRefusedError, match="or only norms have"):
        transfer_weights(network, state, ("edge_convs", "linear"))
    assert all(value.equal(before[name]) for name, value in network.state_dict().items())


def test_stages_are_taken_over_where_only_the_stem_differs():
    network = PartsNetwork(POINTNEXT_S, 16, 50, 7, ghost_batch=2).trunk
    state = PointNext(POINTNEXT_S, 2).state_dict()
    bias = network.state_dict()["stem.bias"].clone()
    lines = transfer_weights(network, state, ("stem",))
    used = {line.ours for line in lines if line.fate == "used"}
    assert used == {name for name in state if name.startswith("stages.")}
    assert all(network.state_dict()[name].equal(state[name]) for name in used)
    assert network.state_dict()["stem.bias"].equal(bias)  # of no use without the stem's weights
    assert not bias.equal(state["stem.bias"])


def test_what_should_begin_anew_and_is_not_there_is_refused():
    network = PartsNetwork(POINTNEXT_S, 16, 50, 7, ghost_batch=2).trunk
    state = PointNext(POINTNEXT_S, 2).state_dict()
    with pytest.raises(TransferRefusedError, match=r"initialise=\[stemm\].* stages, stem"):
        transfer_weights(network, state, ("stem", "stemm"))
