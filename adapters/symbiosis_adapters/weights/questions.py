"""What can be done to a weight whose values are elsewhere: which torch functions ask what, by their names.

Whatever stands in no list may need, keep or change the values; `placeholder` treats it so.
"""

from __future__ import annotations

from typing import Final

from symbiosis_adapters.names import names

__all__ = ["ADDRESSES", "MOVES", "PATTERNS", "QUESTIONS", "READS", "SHOWS", "STRIDES", "VIEWS", "WRITES_FIRST"]


QUESTIONS: Final = names(
    "__hash__ __len__ _has_compatible_shallow_copy_type can_cast dim element_size empty_like full_like get_device "
    "has_names is_complex is_conj is_floating_point is_inference is_neg is_pinned is_same_size "
    "is_shared is_signed ndimension nelement new_empty new_full new_ones new_tensor new_zeros numel ones_like "
    "promote_types rand_like randint_like randn_like result_type size zeros_like"
)
"""Answered from shape, dtype and device alone."""
STRIDES: Final = names("is_contiguous storage_offset stride")
"""Answered as the values would: the one element of a placeholder has other strides."""
VIEWS: Final = names(
    "alias chunk detach expand flatten narrow permute reshape select split split_with_sizes squeeze "
    "swapaxes t tensor_split transpose unsqueeze view"
)
"""Give another placeholder of the same layer, or several. `unbind` does, too, and some indices (`indexing`)."""
MOVES: Final = names("bfloat16 clone cpu cuda double float half pin_memory share_memory_ to type type_as xpu")
"""Give a placeholder too, as long as the dtype stays; else values of the other dtype."""
PATTERNS: Final = names("expand_as reshape_as to type_as view_as")
"""Take a second tensor for its shape, dtype or device only."""
READS: Final = names(
    "__add__ __getitem__ __matmul__ __mul__ __neg__ __pow__ __radd__ __rmatmul__ __rmul__ __rsub__ "
    "__rtruediv__ __sub__ __truediv__ abs add addmm all allclose amax amin any baddbmm bmm cat div divide dot "
    "einsum eq equal exp ge gt isclose isfinite isinf isnan item le linalg_eigh linalg_matrix_norm "
    "linalg_norm linalg_pinv linalg_qr linalg_svd linalg_svdvals linalg_vector_norm linear log lt matmul "
    "matrix_norm mean mm mul multiply mv ne neg norm outer pow prod qr rsub sqrt square stack std sub "
    "subtract sum svd svd_lowrank tolist true_divide var"
)
"""Give something new, and neither write to what they read nor hand it on."""
WRITES_FIRST: Final = names(
    "__iadd__ __imatmul__ __imul__ __isub__ __itruediv__ _foreach_add_ _foreach_copy_ _foreach_lerp_ "
    "_foreach_mul_ add_ addcmul_ addmm_ baddbmm_ copy_ div_ lerp_ mul_ sub_"
)
"""Write to their first argument, and only read the rest."""
SHOWS: Final = names("__array__ data_ptr numpy untyped_storage")
"""Show where the values lie. Who saves, hashes or compares a model asks so, and does not write there."""
ADDRESSES: Final = names("data_ptr untyped_storage")
"""Of those, what does not itself keep alive the memory that it shows."""
