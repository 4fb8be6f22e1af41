"""Array annotations that carry their shapes; the tests check them at run time, users pay nothing for them."""

from typing import TYPE_CHECKING, Any, TypeAlias

# np.ndarray or torch.Tensor. Naming the second here would load torch for everybody.
Array: TypeAlias = Any

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int, Shaped
else:
    try:
        from jaxtyping import Bool, Float, Int, Shaped
    except ImportError:  # jaxtyping comes with the `dev` extra only

        class _Unchecked:
            def __class_getitem__(cls, item: Any) -> Any:
                return Any

        Bool = Float = Int = Shaped = _Unchecked

__all__ = ["Array", "Bool", "Float", "Int", "Shaped"]
