"""The smooth-step: a sigmoid that reaches 0 and 1 exactly."""

from typing import Any

import tensorflow as tf


def smooth_step(inputs: tf.Tensor, gamma: float) -> tf.Tensor:
    """Cubic step of width `gamma`, exactly 0 and 1 outside of it.

    `S(z) = 0` for `z <= -gamma/2`, `1` for `z >= gamma/2`, else
    `-2 z^3/gamma^3 + 3 z/(2 gamma) + 1/2`. With `t = z/gamma + 1/2` clipped
    to [0, 1] this is `t^2 (3 - 2t)`, whose ends are exact in floating point.

    Reference:
    - [Hazimeh et al., 2020](https://arxiv.org/abs/2002.07772), Eq. (4)

    Args:
        inputs: float tensor of any shape.
        gamma: float. Width of the part that is neither 0 nor 1, above 0.

    Returns:
        A tensor like `inputs`, within [0, 1].

    Example:

    ```python
    import tensorflow as tf
    from keras_comet.ops import smooth_step

    smooth_step(tf.constant([-2.0, 0.0, 0.25, 2.0]), gamma=1.0)
    # [0.0, 0.5, 0.84375, 1.0]
    ```
    """

    @tf.custom_gradient
    def step(z: tf.Tensor) -> Any:
        t = tf.clip_by_value(z / gamma + 0.5, 0.0, 1.0)

        # S'(z) = 6 t (1 - t) / gamma is zero where t is clipped, so that the
        # clip needs no gradient of its own, which would cost more than this.
        def gradient(upstream: tf.Tensor) -> tf.Tensor:
            return upstream * (6.0 / gamma * t * (1.0 - t))

        return t * t * (3.0 - 2.0 * t), gradient

    return step(inputs)
