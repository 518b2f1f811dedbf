import pytest
import tensorflow as tf

from keras_comet.ops.xla import compiles_with_xla


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("nested", [False, True])
def test_compiles_with_xla_says_what_is_being_traced(jit_compile, nested):
    seen = []

    def look():
        seen.append(compiles_with_xla())
        return tf.constant(0)

    def look_deeper():
        return tf.cond(tf.constant(True), tf.function(look), look)

    tf.function(look_deeper if nested else look, jit_compile=jit_compile)()
    assert seen
    assert set(seen) == {jit_compile}


def test_eager_code_is_not_compiled():
    assert not compiles_with_xla()
