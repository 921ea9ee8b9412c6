"""FLOPs of an MLP: the figures of both papers."""

import pytest

from interp.errors import ParameterError
from probes import mlp_flops, spark_flops


def test_the_figures_of_the_papers():
    assert mlp_flops(768, 3072) == 4 * 768 * 3072
    assert mlp_flops(768, 3072, 0) == mlp_flops(768, 3072) / 2  # the first product stays
    gemma = mlp_flops(2304, 9216, gated=True)
    spark = spark_flops(2304, 13824, 1106, 1024)
    assert (gemma, spark) == (127_401_984, 36_239_360)
    about = 2304 * 13824 + 3 * 2304 * 1106
    assert about == 39_495_168 and about != spark
    assert round(gemma / spark, 1) == 3.5 and round(gemma / about, 1) == 3.2


def test_what_is_saved_is_the_second_product_s_share():
    saved = mlp_flops(64, 256) - mlp_flops(64, 256, 64)
    assert saved / (2 * 64 * 256) == 1 - 64 / 256


def test_wrong_sizes_are_refused():
    with pytest.raises(ParameterError, match="active"):
        mlp_flops(4, 8, 9)
    with pytest.raises(ParameterError, match="spark_flops"):
        spark_flops(4, 8, 2, 5)
