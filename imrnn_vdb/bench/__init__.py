"""What a modulated search costs beside a plain one: measured interleaved, on synthetic points or a cluster of yours."""

from imrnn_vdb.bench.options import BenchOptions
from imrnn_vdb.bench.report import BenchReport, Figure
from imrnn_vdb.bench.run import bench_collection, bench_synthetic

__all__ = ["BenchOptions", "BenchReport", "Figure", "bench_collection", "bench_synthetic"]
