"""`picpoint flops` prints a row for every point encoder."""

import pytest

from cluster import flops
from cluster.app import main


@pytest.mark.slow
def test_every_encoder_and_the_published_transformers_have_a_row(monkeypatch, capsys):
    monkeypatch.setattr(flops, "NUM_POINTS", 128)  # the larger ones take seconds otherwise
    assert main(["flops"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    for name, parameters in (("dgcnn", "0.62"), ("pointnext_s", "0.97"), ("pointnext_xl", "41.23")):
        (row,) = (row for row in rows if row[0] == name)
        assert row[1] == parameters
        assert all(float(figure) > 0 for figure in row[1:])
    assert any(row[0] == "ReCon" for row in rows)
    with pytest.raises(SystemExit):
        main(["flops", "surplus"])
