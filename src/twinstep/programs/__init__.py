"""Programs: one module a strategy, each turning a plan into one generator of effects a rank."""

from twinstep.programs.buckets import Bucket, fill_buckets
from twinstep.programs.data_parallel import DataParallel
from twinstep.programs.placement import shards

__all__ = ["Bucket", "DataParallel", "fill_buckets", "shards"]
