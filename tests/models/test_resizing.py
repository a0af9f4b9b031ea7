"""Pictures are resized as Qwen's code resizes them."""

from hypothesis import given
from hypothesis import strategies as st
from qwen_vl_utils.vision_process import smart_resize

from qwen3vl_rl.data.pictures import MAX_RATIO
from qwen3vl_rl.models.resizing import fitted_size


@given(st.integers(1, 9000), st.integers(1, 9000), st.sampled_from([28, 32]))
def test_pictures_are_resized_as_qwen_does(width, height, side):
    if max(width, height) <= MAX_RATIO * min(width, height):
        expected = smart_resize(height, width, side, min_pixels=4 * side**2, max_pixels=16384 * side**2)
        assert fitted_size(width, height, side, (4 * side**2, 16384 * side**2)) == expected[::-1]
