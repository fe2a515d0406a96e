"""Ask the processor for a row of an array before it is needed: an instruction that compiled code has and Python not."""

from llvmlite import ir
from numba import types as t
from numba.extending import intrinsic, overload


def bring_near(rows, k, byte):
    """Ask the processor for the line of its cache that has this byte of row k of an array; no row need be there."""
    return  # interpreted: there is nothing to gain


@intrinsic
def _bring_near(typingctx, rows, k, byte):
    def build(context, builder, signature, arguments):
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        stride = builder.extract_value(array.strides, 0)
        offset = builder.add(builder.mul(arguments[1], stride), arguments[2])
        word = ir.IntType(32)
        byte_pointer = ir.IntType(8).as_pointer()
        place = builder.gep(builder.bitcast(array.data, byte_pointer), [offset])
        kind = ir.FunctionType(ir.VoidType(), [byte_pointer, word, word, word])
        prefetch = builder.module.declare_intrinsic("llvm.prefetch", [byte_pointer], kind)
        builder.call(prefetch, [place, word(0), word(3), word(1)])  # to read, to keep in all levels, data
        return context.get_dummy_value()

    return t.void(rows, t.int64, t.int64), build


@overload(bring_near, inline="always")
def _bring_near_compiled(rows, k, byte):
    return lambda rows, k, byte: _bring_near(rows, k, byte)
