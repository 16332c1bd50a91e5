"""Loads that several processes share, by torch.distributed: each byte is read once, and passed on to the others.

join      who takes part, and on what terms?                         meeting, joining, board, team
agree     one rank looks at the checkpoint, all plan the same        agreement, planning/partition
read      each rank its pieces, by an engine of its own              reading/
pass on   piece after piece, by broadcast from its owner             rounds (decides), engine (runs)
          in host memory by Gloo, or from GPU to GPU by NCCL         passage, team; on_device, device_group
land      to another device or type, or a rank's part alone          landing
watch     one end for all: a failure, a rank that leaves or dies     watch, notices
"""
