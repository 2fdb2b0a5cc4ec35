"""What an exported file computes in: fewer bits than the training did."""

from pydantic import Field

from ..operation import Kind, Params, operation


class QuantisationParams(Params):
    most: float = Field(0.01, ge=0, kw_only=True, description="how much worse the figure may get, as a share of it")


class Int8Params(QuantisationParams):
    calibrate: int = Field(200, ge=1, description="rows of the training split that the ranges of the activations are found on")


@operation(Kind.QUANTISATION, Int8Params)
def int8(p: Int8Params) -> None:
    """r = (q - zero) * scale, q of 8 bits: weights and inputs of dense layers and convolutions, and the rows of embeddings.

    Weights have a scale for each output and zero 0, activations one scale and zero for a tensor: of the ranges up to the one that holds all calibration
    rows, the one with the smallest squared error. Weights of products take 7 of the 8 bits, so that sums of pairs fit into the 16 bits that some processors
    have for them, and all give the same result. Recurrent layers, data steps, norms that stay and decisions are float32 as before. The file has
    QuantizeLinear and DequantizeLinear around each operand. Source: Jacob et al. 2018, arXiv:1712.05877.

    Before and after, onnxruntime's figures on the validation split, or test, or training split, are in verification.json, with the file's size and the time of
    1 and 256 rows. The export is refused where the figure gets worse by more than `most`: the goal's, else the first of the metrics, else the loss.
    """


@operation(Kind.QUANTISATION, QuantisationParams)
def float16(p: QuantisationParams) -> None:
    """Weights, products and what lies between them in float16, 11 bits of mantissa; inputs and outputs stay float32.

    So do data steps, decisions, softmax, logarithms, powers, quotients, and what leads to a sum element by element, such as the statistics of norms. Figures,
    sizes and times are told, and a loss refused, as for int8.
    """
