#!/usr/bin/env bash
# Pre-training at equal compute, scored by the three targets and by the bias.
#   bash benchmarks/evidence/tte.sh npz:cifar100.npz runs/tte
# Repeat the command to go on where it was cut off.
#
# PASSES (60) is how often the encoder sees each image in training, counted in whole images:
# reconstruction and rotation look at 1, jigsaw at 4 quarters, instance and barlow_twins at 2. So a
# step with all four tasks sees 5, with one task an image 1.25. BATCH (64) and SEEDS (2) as usual.
# The batch size was chosen by TARGETS=classification,clustering BIAS= PASSES=20 SEEDS=1, with BATCH=64
# and BATCH=256, on training images held out from a file of training images alone. TARGETS= leaves the
# targets out, BIAS= the bias.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
data="--dataset $1 --train_images 20000"
out=$2
passes=${PASSES:-60} seeds=${SEEDS:-2}

pretrain() {  # NAME IMAGES_PER_STEP_AND_IMAGE FLAG ...
  local name=$1 images=$2
  shift 2
  python pretrain_tte.py $data --mixed_precision --net VGG_stride_student --net_options width=32 \
    --batch_size "${BATCH:-64}" --schedule cosine --targets= --seeds "$seeds" --train_dir "$out/$name" "$@" \
    --epochs "$(awk "BEGIN { print int($passes / $images + 0.5) }")"
}
alone="--regularizer none --ensemble none"
pretrain instance 2 --tasks instance $alone
if [ -n "${TARGETS-all}" ]; then
  pretrain barlow_twins 2 --tasks barlow_twins $alone
  pretrain essl 3 --tasks "instance(temperature=0.5),rotation(weight=0.4)" --balance none $alone
fi
pretrain plain_sum 5 $alone
pretrain tte 5
pretrain tte_one_task 1.25 --tasks_per_image 1 --regularizer none

encoders=$(printf "$out/%s," instance barlow_twins essl plain_sum tte tte_one_task)
if [ -n "${TARGETS-all}" ]; then
  python evaluate.py $data --seeds "$seeds" --out_dir "$out/scores" --targets "${TARGETS-all}" \
    --encoder "${encoders}random:$out/tte,pixels"
fi
if [ -n "${BIAS-yes}" ]; then
  for task in reconstruction rotation jigsaw; do
    pretrain "$task" 1 --tasks "$task" $alone
  done
  # E-SSL has another temperature than instance alone, so there is no bias of it.
  encoders=$(printf "$out/%s," plain_sum tte tte_one_task instance reconstruction rotation jigsaw)
  python evaluate.py $data --seeds "$seeds" --out_dir "$out/bias" --bias --bias_epochs 3 \
    --encoder "${encoders%,}"
fi
