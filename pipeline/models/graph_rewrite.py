"""`rewrite`: the same model in fewer and cheaper steps, as one ONNX graph."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from pipeline.models.graph_nodes import CannotComposeError, opset_of, refuse_our_names
from pipeline.models.graph_rewrite_focus import fold_focus
from pipeline.models.graph_rewrite_masks import enlarge_last
from pipeline.models.graph_rewrite_net import Net
from pipeline.models.graph_rewrite_softmax import take_means
from pipeline.models.graph_rewrite_split import divide_convs
from pipeline.models.graph_rewrite_upsample import convolve_first
from pipeline.models.onnx_file import MAX_BYTES

if TYPE_CHECKING:
    import onnx

REWRITER = "3"
"""Another number whenever what `rewrite` makes of any model changes: results are kept by it."""


class Rewrite(NamedTuple):
    """One kind of rewriting.

    Attributes:
        do: changes a graph, and gives how often.
        once: what was done, for people, if it was done once.
        often: the same with "{}" for how often.
    """

    do: Callable[[Net], int]
    once: str
    often: str


REWRITES = {
    "focus": Rewrite(fold_focus, "focus as one convolution", "{} focus as one convolution each"),
    "softmax": Rewrite(take_means, "softmax without transposes", "{} softmax without transposes"),
    "split": Rewrite(divide_convs, "1 convolution split", "{} convolutions split"),
    "upsample": Rewrite(
        convolve_first, "1 map enlarged after its convolution", "{} maps enlarged after their convolution"
    ),
    "masks": Rewrite(enlarge_last, "masks enlarged last", "{} times masks enlarged last"),
}
"""In the order in which they are done: a convolution that is split first is convolved before a map is enlarged, too."""


@dataclass(frozen=True, slots=True)
class Rewritten:
    """A model's file, as it is or rewritten.

    Attributes:
        data: the model, serialised; the very object that was given where nothing was done.
        done: what was done, in words for people: "focus as one convolution", "9 convolutions split".
    """

    data: bytes
    done: tuple[str, ...] = ()


def rewrite(data: bytes, *, only: Iterable[str] = tuple(REWRITES)) -> Rewritten:
    """The model with the same inputs and outputs, and the same answers to rounding, that takes less time on a CPU.

    Args:
        data: the model's file, as `read_onnx` checked it.
        only: which of `REWRITES`.

    Raises:
        CannotComposeError: it stays as it is, and why.
    """
    import onnx

    model = onnx.ModelProto()
    model.ParseFromString(data)
    opset = _refuse(data, model)
    done = []
    for name in only:
        net = Net(model, opset, f"re_{name}_")
        try:
            times = REWRITES[name].do(net)
        except CannotComposeError:
            raise
        except (LookupError, TypeError, ValueError, AttributeError) as error:  # inputs left out, a list for a number
            raise CannotComposeError(f"it has nodes that the format does not allow: {error}") from error
        if times:
            net.apply()
            done.append(REWRITES[name].once if times == 1 else REWRITES[name].often.format(times))
    if not done:
        return Rewritten(data)
    if model.ByteSize() > MAX_BYTES:
        raise CannotComposeError("the model is too large for one file")
    return Rewritten(bytes(model.SerializeToString()), tuple(done))


def _refuse(data: bytes, found: "onnx.ModelProto") -> int:
    """The model's operator set, if its graph can be changed."""
    opset = opset_of(found)
    if found.training_info:
        raise CannotComposeError("it can be trained")
    refuse_our_names(data)
    return opset
