"""What runs an op: numpy, or PyTorch on a processor or a GPU. A backend makes of a row of sizes what is timed."""

from __future__ import annotations

import contextlib
import importlib
import itertools
import os
from collections.abc import Callable, Mapping

import numpy as np

from reports.arguments import ReportError
from workloads.trace import nearest

BACKENDS = ("numpy", "torch")
DEVICES = ("cpu", "cuda")
#: Weights of products are taken from a pool so many times the last cache, in turn: each run finds them in memory, as
#: a network with many layers does. What is not weights stays in cache.
POOL_CACHES = 2.0
#: Elements activations are cut from: the largest operand of any case.
ACTIVATIONS = 2**25


def backend(name: str, device: str, last_cache_bytes: float):
    """The backend `name` on `device`. Raises `ReportError`: unknown names, PyTorch or a GPU that is not there."""
    if name not in BACKENDS:
        raise ReportError(f"backend: unknown {name!r}{nearest(name, BACKENDS)}")
    if device not in DEVICES:
        raise ReportError(f"device: unknown {device!r}{nearest(device, DEVICES)}")
    if name == "numpy":
        if device != "cpu":
            raise ReportError(f"device: numpy runs on cpu alone, got {device!r}; --backend torch runs on cuda")
        return Numpy(last_cache_bytes)
    return Torch(device, last_cache_bytes)


class _Pools:
    """Random values that cases cut their operands from: `weights` in turn, activations always the same ones."""

    def __init__(self, values, activations):
        self.values, self.activations = values, activations

    @staticmethod
    def elements(last_cache_bytes: float) -> int:
        """fp32 values that no cache holds together."""
        return int(POOL_CACHES * last_cache_bytes / 4) + 2**24

    def weights(self, *shape: int):
        """Parts of a shape that together fill the pool, endlessly: each is used again when all others were."""
        count = int(np.prod(shape))
        parts = len(self.values) // count
        return itertools.cycle([self.values[i * count : (i + 1) * count].reshape(shape) for i in range(parts)])

    def cut(self, *shape: int, skip: int = 0):
        """Values of a shape, `skip` values from the start."""
        count = int(np.prod(shape))
        return self.activations[skip : skip + count].reshape(shape)


class Numpy:
    """numpy on the processor: products by its BLAS, everything else by its loops."""

    name, device, family = "numpy", "cpu", "cpu"
    dtypes = ("fp32",)

    def __init__(self, last_cache_bytes: float):
        rng = np.random.default_rng(0)
        self.pools = _Pools(
            rng.standard_normal(_Pools.elements(last_cache_bytes), dtype=np.float32) * np.float32(0.05),
            rng.standard_normal(ACTIVATIONS, dtype=np.float32),
        )

    @property
    def versions(self) -> dict[str, str]:
        """numpy and the BLAS it was built with."""
        blas = np.show_config(mode="dicts").get("Build Dependencies", {}).get("blas", {})
        return {"numpy": np.__version__, "blas": f"{blas.get('name', 'unknown')} {blas.get('version', '')}".strip()}

    def use_threads(self, threads: int | None, cores: int) -> int:
        """How many threads a product uses. Raises `ReportError` for a wish: its BLAS reads it when Python starts."""
        if threads is not None:
            raise ReportError("threads: numpy's are set before it starts: OMP_NUM_THREADS=1 rooftrace calibrate ...")
        told = [os.environ.get(name, "") for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")]
        return next((min(int(text), cores) for text in told if text.isdigit() and int(text)), cores)

    def settle(self) -> None:
        """Nothing runs beside the caller."""

    def session(self):
        """What measuring is done within."""
        return contextlib.nullcontext()

    def case(self, record: Mapping) -> Callable[[], Callable[[], object]]:
        """What makes the function that runs `record` once. Raises `KeyError` for an op numpy has no call for."""
        return {
            "linear": self._linear, "matmul": self._matmul, "add": self._binary(np.add),
            "multiply": self._binary(np.multiply), "relu": self._relu, "tanh": self._tanh, "rnn": self._rnn,
        }[record["op"]](record)  # fmt: skip

    def _linear(self, r):
        def make():
            x, out = self.pools.cut(r["m"], r["k"]), np.empty((r["m"], r["n"]), np.float32)
            weights = self.pools.weights(r["n"], r["k"])
            return lambda: np.matmul(x, next(weights).T, out=out)

        return make

    def _matmul(self, r):
        def make():
            a = self.pools.cut(r["batch"], r["m"], r["k"])
            b = self.pools.cut(r["batch"], r["k"], r["n"], skip=a.size)
            out = np.empty((r["batch"], r["m"], r["n"]), np.float32)
            if r["batch"] == 1:
                a, b, out = a[0], b[0], out[0]
            return lambda: np.matmul(a, b, out=out)

        return make

    def _binary(self, function):
        def build(r):
            def make():
                a = self.pools.cut(r["rows"], r["columns"])
                b = self.pools.cut(r["rows"], r["columns"], skip=a.size)
                out = np.empty_like(a)
                return lambda: function(a, b, out=out)

            return make

        return build

    def _relu(self, r):
        def make():
            a, zero = self.pools.cut(r["rows"], r["columns"]), np.float32(0)
            out = np.empty_like(a)
            return lambda: np.maximum(a, zero, out=out)

        return make

    def _tanh(self, r):
        def make():
            a = self.pools.cut(r["rows"], r["columns"])
            out = np.empty_like(a)
            return lambda: np.tanh(a, out=out)

        return make

    def _rnn(self, r):
        """The steps of a recurrence whose input products are done: h = tanh(x_t + U h)."""

        def make():
            hidden, batch, steps = r["hidden"], r["batch"], r["timesteps"]
            u = next(self.pools.weights(hidden, hidden))
            x, h = self.pools.cut(steps, batch, hidden), np.zeros((batch, hidden), np.float32)
            sums = np.empty_like(h)

            def run():
                state = h
                for step in range(steps):
                    np.matmul(state, u, out=sums)
                    np.add(sums, x[step], out=sums)
                    state = np.tanh(sums)
                return state

            return run

        return make


class Torch:
    """PyTorch, as a user calls it: functions and modules, no gradients kept."""

    name = "torch"

    def __init__(self, device: str, last_cache_bytes: float):
        try:
            self.torch = torch = importlib.import_module("torch")
        except ImportError:
            raise ReportError("PyTorch is not installed: pip install 'rooftrace[torch]'") from None
        if device == "cuda" and not torch.cuda.is_available():
            raise ReportError("device: PyTorch finds no CUDA GPU here")
        self.device, self.family = device, "gpu" if device == "cuda" else "cpu"
        self.types = {"fp32": torch.float32}
        if device == "cuda" and torch.cuda.is_bf16_supported():
            self.types["bf16"] = torch.bfloat16
        seed = torch.Generator(device=device).manual_seed(0)
        count = _Pools.elements(last_cache_bytes)
        self.pools = {
            dtype: _Pools(
                torch.randn(count, generator=seed, device=device).mul_(0.05).to(kind),
                torch.randn(ACTIVATIONS, generator=seed, device=device).to(kind),
            )
            for dtype, kind in self.types.items()
        }

    @property
    def dtypes(self) -> tuple[str, ...]:
        return tuple(self.types)

    @property
    def versions(self) -> dict[str, str]:
        torch = self.torch
        found = {"torch": str(torch.__version__)}
        if self.device == "cuda":
            found |= {"cuda": str(torch.version.cuda), "cudnn": str(torch.backends.cudnn.version())}
        return found

    def use_threads(self, threads: int | None, cores: int) -> int:
        """Let an op use so many threads (None: PyTorch's own choice). Raises `ReportError` for more than cores."""
        if threads is not None and not 1 <= threads <= cores:
            raise ReportError(f"threads must be 1 to {cores}, the cores there are, got {threads}")
        if threads is not None:
            self.torch.set_num_threads(threads)
        return min(self.torch.get_num_threads(), cores)

    @property
    def properties(self):
        """What CUDA says of the GPU."""
        return self.torch.cuda.get_device_properties(0)

    def session(self):
        """What measuring is done within: no gradients are kept."""
        return self.torch.inference_mode()

    def settle(self) -> None:
        """Wait for what a GPU was given to do."""
        if self.device == "cuda":
            self.torch.cuda.synchronize()

    def case(self, record: Mapping) -> Callable[[], Callable[[], object]]:
        """What makes the function that runs `record` once. Raises `KeyError` for an unknown op."""
        functional = self.torch.nn.functional
        builders = {"linear": self._linear, "matmul": self._matmul, "attention": self._attention}
        builders |= {
            name: self._binary(getattr(self.torch, word)) for name, word in (("add", "add"), ("multiply", "mul"))
        }
        builders |= {name: self._unary(getattr(self.torch, name)) for name in ("relu", "tanh", "sigmoid")}
        builders |= {"gelu": self._unary(lambda x: functional.gelu(x, approximate="tanh"))}
        builders |= {"softmax": self._unary(lambda x: functional.softmax(x, dim=-1)), "layer norm": self._norm}
        builders |= {"lstm": self._recurrent, "gru": self._recurrent}
        return builders[record["op"]](record)

    def module(self, make_module: Callable[[], object], shape: tuple[int, ...], dtype: str = "fp32"):
        """What makes the function that runs a module on an input of `shape` once."""

        def make():
            self.torch.manual_seed(0)
            module = make_module().to(self.device, self.types[dtype]).eval()
            x = self.pools[dtype].cut(*shape)
            return lambda: module(x)

        return make

    def _pool(self, r) -> _Pools:
        return self.pools[r.get("dtype") or "fp32"]

    def _linear(self, r):
        def make():
            pool = self._pool(r)
            x, bias, weights = pool.cut(r["m"], r["k"]), pool.cut(r["n"]), pool.weights(r["n"], r["k"])
            linear = self.torch.nn.functional.linear
            return lambda: linear(x, next(weights), bias)

        return make

    def _matmul(self, r):
        def make():
            pool = self._pool(r)
            a = pool.cut(r["batch"], r["m"], r["k"])
            b = pool.cut(r["batch"], r["k"], r["n"], skip=a.numel())
            return lambda: self.torch.bmm(a, b)

        return make

    def _attention(self, r):
        def make():
            pool, heads, size = self._pool(r), r["heads"], r["head_dim"]
            q = pool.cut(r["batch"], heads, r["q_len"], size)
            k = pool.cut(r["batch"], heads, r["kv_len"], size, skip=q.numel())
            v = pool.cut(r["batch"], heads, r["kv_len"], size, skip=q.numel() + k.numel())
            fused, causal = self.torch.nn.functional.scaled_dot_product_attention, bool(r["causal"])
            return lambda: fused(q, k, v, is_causal=causal)

        return make

    def _binary(self, function):
        def build(r):
            def make():
                pool = self._pool(r)
                a = pool.cut(r["rows"], r["columns"])
                b = pool.cut(r["rows"], r["columns"], skip=a.numel())
                out = self.torch.empty_like(a)
                return lambda: function(a, b, out=out)

            return make

        return build

    def _unary(self, function):
        def build(r):
            def make():
                a = self._pool(r).cut(r["rows"], r["columns"])
                return lambda: function(a)

            return make

        return build

    def _norm(self, r):
        def make():
            pool = self._pool(r)
            a, gain = pool.cut(r["rows"], r["columns"]), pool.cut(r["columns"])
            norm, shape = self.torch.nn.functional.layer_norm, (r["columns"],)
            return lambda: norm(a, shape, gain, gain)

        return make

    def _recurrent(self, r):
        kind = {"lstm": self.torch.nn.LSTM, "gru": self.torch.nn.GRU}[r["op"]]
        inputs = r["input_size"]

        def make():
            dtype = r.get("dtype") or "fp32"
            self.torch.manual_seed(0)
            module = kind(inputs, r["hidden"], r["layers"], bidirectional=bool(r["bidirectional"]))
            module = module.to(self.device, self.types[dtype]).eval()
            x = self.pools[dtype].cut(r["timesteps"], r["batch"], inputs)
            return lambda: module(x)

        return make
