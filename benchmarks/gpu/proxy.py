"""The V3-shaped proxy on one GPU: BF16 training, decoding, FP8 training. `python -m benchmarks.gpu.proxy`.

In one process, so that every ratio is of one run: the device's best product and its memory's rate first.
"""

from benchmarks.gpu import _setting as setting
from benchmarks.gpu import decode, peaks, rows, train
from megatron_r1.backend.model.precision import Precision
from megatron_r1.backend.policy import MegatronPolicy
from megatron_r1.errors import ConfigError

SIZE, LENGTH, SEQUENCES = "v3_proxy", 4096, 16
TOKENS_PER_PACK = 2 * LENGTH  # 1,024 tokens an expert in every grouped product
STEPS = 8


def main() -> None:
    setting.start()
    product, memory = peaks.best_product(), peaks.bandwidth()
    setting.forget()
    speed = bf16_rows(product=product, memory=memory)
    setting.forget()
    fp8_row(beside=speed, product=product)


def bf16_rows(*, product: float, memory: float) -> float:
    """Training and decoding of the same weights; tokens/s of training."""
    policy = build("bf16")
    found = training(policy, "bf16")
    _keep("bf16_training", found, of_peak(found, product), product)
    decode_rows(policy, memory=memory)
    return found.tokens_per_s


def decode_rows(policy: MegatronPolicy, *, memory: float) -> None:
    """Operator by operator, as CUDA graphs, and these in FP8."""
    _share_of_memory("decode", decode.measure(policy), memory)
    policy.rollout_options.cuda_graphs = True
    try:
        step = decode.measure(policy)
        _share_of_memory("decode_graphs", step, memory)
        policy.rollout_options.precision = "fp8"
        in_fp8 = decode.measure(policy)
        rows.measured("decode_fp8", step.seconds / in_fp8.seconds, seconds_a_step=in_fp8.seconds)
    except ConfigError as error:  # weights or a GPU without a grouped product
        name = "decode_graphs" if policy.rollout_options.precision is None else "decode_fp8"
        rows.missing(name, str(error))


def _share_of_memory(name: str, step: decode.Decode, memory: float) -> None:
    rows.measured(
        name,
        step.read / memory / step.seconds,
        seconds_a_step=step.seconds,
        tokens_a_row=step.length,
        gb_read=step.read / 1e9,
        gb_per_s=memory / 1e9,
    )


def fp8_row(*, beside: float, product: float) -> None:
    """beside: tokens/s in BF16."""
    try:
        policy = build("fp8_blockwise")
    except ConfigError as error:
        rows.missing("fp8_training", str(error))
        return
    found = training(policy, "fp8_blockwise")
    _keep("fp8_training", found, found.tokens_per_s / beside, product)


def build(precision: Precision) -> MegatronPolicy:
    """Without an end of sequence among its tokens."""
    vocabulary = setting.SIZES[SIZE].shape().vocab_size
    return setting.policy(SIZE, precision, tokens_per_pack=TOKENS_PER_PACK, eos_id=vocabulary)


def training(policy: MegatronPolicy, precision: Precision) -> setting.Measurement:
    return train.measure(
        SIZE, precision, policy=policy, sequence_length=LENGTH, sequences=SEQUENCES, steps=STEPS
    )


def of_peak(found: setting.Measurement, product: float) -> float:
    """The model's operations as a share of what the measured best product would do in that time."""
    return found.tokens_per_s * train.flops_a_token(SIZE, LENGTH) / product


def _keep(name: str, found: setting.Measurement, figure: float, product: float) -> None:
    setting.write(found, "gpu_train")
    rows.measured(
        name,
        figure,
        tokens_per_s=found.tokens_per_s,
        memory_gib=found.memory_gib,
        best_product_tflops=product / 1e12,
        of_measured_bf16_peak=of_peak(found, product),
        of_data_sheet=found.mfu,
    )


if __name__ == "__main__":
    main()
