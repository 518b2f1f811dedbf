"""Probabilities of binary codes with independent digits."""

import tensorflow as tf


def code_probabilities(digit_probabilities: tf.Tensor) -> tf.Tensor:
    """Probability of every binary code, in the order of its value.

    Code e has the digits of the binary number e, the most significant first;
    digit i is 1 with probability `s_i`:
    `v_e = prod_i (s_i if digit i of e is 1 else 1 - s_i)`.

    Reference:
    - [Hazimeh et al., 2021](https://arxiv.org/abs/2106.03760), Eq. (4)

    Args:
        digit_probabilities: float tensor `(..., m)` within [0, 1], with a
            static last axis.

    Returns:
        A tensor `(..., 2**m)`, nonnegative, summing to one.

    Example:

    ```python
    import tensorflow as tf
    from keras_comet.ops.binary_codes import code_probabilities

    code_probabilities(tf.constant([1.0, 0.25]))  # [0, 0, 0.75, 0.25]
    ```
    """
    leading = tf.shape(digit_probabilities)[:-1]
    static_leading = digit_probabilities.shape[:-1]
    codes = tf.ensure_shape(
        tf.ones(tf.concat([leading, [1]], 0), digit_probabilities.dtype),
        [*static_leading, 1],
    )
    for digit in range(digit_probabilities.shape[-1]):
        one = codes * digit_probabilities[..., digit : digit + 1]
        # (..., 2**digit, 2) -> (..., 2**(digit + 1)), digit 0 before digit 1
        codes = tf.ensure_shape(
            tf.reshape(
                tf.stack([codes - one, one], axis=-1),
                tf.concat([leading, [2 ** (digit + 1)]], 0),
            ),
            [*static_leading, 2 ** (digit + 1)],
        )
    return codes
