#!/bin/bash
# A sweep on a cluster: `sbatch experiments/sweeps/slurm.sh sweep.yaml`. Eight processes share the runs, a GPU each; the
# same command goes on after a time limit, a requeue or a failed node. Without --signal a training that is stopped goes
# on from its last checkpoint; with it, from its last step.
#SBATCH --job-name=itm-sweep
#SBATCH --ntasks=8
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=8
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --signal=SIGUSR1@120
srun itm sweep "$1" --resume=auto
