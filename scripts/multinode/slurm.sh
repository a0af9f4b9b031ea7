#!/usr/bin/env bash
#SBATCH --job-name=egm
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --requeue
# Stage 2 under Slurm. The variables and overrides are those of scripts/grounding_qwen.sh:
#
#   DATA_DIR=… OUTPUT_DIR=… sbatch --nodes=4 scripts/multinode/slurm.sh reward=sigmoid
#
# A requeued or resubmitted job resumes from its latest checkpoint. Slurm kills all processes when the job ends.
set -euo pipefail
cd "$SLURM_SUBMIT_DIR"
export PORT=$((20000 + SLURM_JOB_ID % 10000)) # jobs on the same network need different ports
RAY_ADDRESS=$(hostname -I | cut -d' ' -f1):$PORT
others=$((SLURM_JOB_NUM_NODES - 1))

bash scripts/multinode/ray.sh head &
bash scripts/multinode/ray.sh wait "$RAY_ADDRESS" 1
((others == 0)) || srun --nodes=$others --ntasks=$others --exclude="$SLURMD_NODENAME" \
  bash scripts/multinode/ray.sh join "$RAY_ADDRESS" &
bash scripts/multinode/ray.sh wait "$RAY_ADDRESS" "$SLURM_JOB_NUM_NODES"
export RAY_ADDRESS RAY_AUTH_MODE=token
bash scripts/grounding_qwen.sh hardware=multinode trainer.nnodes="$SLURM_JOB_NUM_NODES" "$@"
