"""What the default scale chooses from: an order of simplicity, and blends of what stands in it."""

import numpy as np
import pytest

from hatband import AutoScale, ConstantScale, LeverageScale, MagnitudeScale, QuantileScale, StrengthScale
from hatband.scales.candidates import FittedBlend, check_candidates, default_candidates, kind, mean_band, members
from scales.cases import rows_of


def test_defaults_stand_in_order_of_what_they_look_at():
    kinds = [kind(name, default_candidates()) for name in default_candidates()]
    columns = [len(kind) for kind in kinds]

    assert columns == sorted(columns)
    assert len(set(kinds[:4])) == 4
    check_candidates(default_candidates())


class TestKind:
    def test_is_shared_by_scales_that_learn_from_the_same_columns_and_by_their_blends(self):
        scales = {"m": MagnitudeScale(), "q": QuantileScale(), "c": ConstantScale()}
        candidates = scales | {"b": ("m", "q"), "d": ("c", "q")}

        assert {kind(name, candidates) for name in "mqbd"} == {("leverage", "prediction", "inputs")}

    def test_tells_fixed_from_estimated_leverage(self):
        candidates = {"l": LeverageScale(), "s": StrengthScale(), "t": StrengthScale(form="sampling")}

        assert len({kind(name, candidates) for name in candidates}) == 3


class TestErrors:
    @pytest.mark.parametrize("candidates", [{}, {"blend": ("blend",)}])
    def test_no_scale(self, candidates):
        with pytest.raises(ValueError, match="at least one Scale"):
            AutoScale(candidates).fit(rows_of(np.ones(200)), np.ones((200, 1)))

    @pytest.mark.parametrize(("blend", "seen"), [(("c", "other"), r"\['other'\]"), ((), "none")])
    def test_a_blend_of_what_is_not_a_candidate(self, blend, seen):
        with pytest.raises(ValueError, match=f"'b' names {seen}"):
            AutoScale({"c": ConstantScale(), "b": blend}).fit(rows_of(np.ones(200)), np.ones((200, 1)))


class TestBlends:
    def test_are_means_at_the_threshold_of_each(self):
        bands = [(1.0, np.array([[1.0], [2.0]])), (np.array([[0.0], [4.0]]), np.array([[5.0], [6.0]]))]
        shift, width = mean_band(bands, np.array([2.0, 0.5]))

        np.testing.assert_allclose(shift, [[0.5], [2.5]])
        np.testing.assert_allclose(width, [[(2 + 2.5) / 2], [(4 + 3) / 2]])

    def test_have_a_width_where_no_part_needs_one(self):
        shift, width = mean_band([(1.0, np.full((2, 1), 4.0)), (3.0, np.full((2, 1), 2.0))], np.zeros(2))

        assert shift == 2.0
        np.testing.assert_allclose(width, [[3.0], [3.0]])

    def test_count_a_scale_as_often_as_it_stands(self):
        rows = rows_of(np.array([0.0, 3.0]))
        one, two = LeverageScale().fit(), ConstantScale().fit()
        _, width = FittedBlend([one, two, two], np.array([3.0, 1.0, 1.0])).predict(rows)

        np.testing.assert_allclose(width, [[5 / 3], [8 / 3]])

    def test_are_infinite_where_one_part_is(self):
        rows = rows_of(np.array([0.0, np.inf]))
        _, width = FittedBlend([LeverageScale().fit(), ConstantScale().fit()], np.ones(2)).predict(rows)

        assert np.isinf(width[:, 0]).tolist() == [False, True]

    def test_name_their_members(self):
        assert members("b", ("m", "q", "q")) == ("m", "q", "q")
        assert members("m", MagnitudeScale()) == ("m",)
