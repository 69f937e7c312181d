#!/bin/bash
# A sweep as a job array, one run for each job: `sbatch --array=0-5 experiments/sweeps/slurm_array.sh sweep.yaml`. The
# numbers are those of `itm sweep sweep.yaml --plan`. The first job does the steps before the runs, and the last one that
# ends compares.
#SBATCH --job-name=itm-sweep
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=8
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --signal=SIGUSR1@120
srun itm sweep "$1" --resume=auto --index "$SLURM_ARRAY_TASK_ID"
