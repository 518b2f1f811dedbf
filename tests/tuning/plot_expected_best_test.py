import numpy as np
import pytest

from keras_comet import tuning


def test_a_line_for_each_arm_and_a_band_around_it():
    validation, test = [0.3, 0.1, 0.2], [0.5, 0.2, 0.3]
    figure = tuning.plot_expected_best(
        {"comet": (validation, test), "default": ([0.2], [0.25])}
    )
    (axes,) = figure.axes
    line, across = axes.lines
    np.testing.assert_array_equal(line.get_xdata(), [1, 2, 3])
    # The best of the pairs have .2, .3 and .2.
    np.testing.assert_allclose(line.get_ydata(), [1 / 3, 0.7 / 3, 0.2])
    assert set(across.get_ydata()) == {0.25}
    (band,) = axes.collections
    low, high = band.get_paths()[0].vertices[:, 1].min(), 0.5
    assert low == pytest.approx(0.2)
    assert band.get_paths()[0].vertices[:, 1].max() <= high
    (legend,) = figure.legends
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts == ["comet", "default"]


def test_no_arm_raises():
    with pytest.raises(ValueError, match="at least one arm"):
        tuning.plot_expected_best({})
