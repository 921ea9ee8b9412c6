import pytest
import torch
from threadpoolctl import threadpool_info

from probes import spectrum
from probes.spectrum import eigen


@pytest.mark.parametrize("large", [1, 10**6])
def test_vectors_turn_the_matrix_into_its_values(large, monkeypatch):
    monkeypatch.setattr(spectrum, "LARGE", large)
    X = torch.randn(30, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    K = X @ X.T
    before = threadpool_info()
    values, V = eigen(K.clone())
    assert threadpool_info() == before
    assert (values.diff() >= 0).all()
    torch.testing.assert_close(V.T @ V, torch.eye(30, dtype=torch.float64))
    torch.testing.assert_close(V * values @ V.T, K)
