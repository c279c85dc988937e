"""twinstep: predict a distributed training plan, run it, and compare the two."""
