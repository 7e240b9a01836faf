#!/usr/bin/env bash
# Pre-training at equal compute, two seeds, scored by the three targets and by the bias.
#   bash benchmarks/evidence/tte.sh npz:cifar100.npz runs/tte [PASSES]
#
# PASSES (default 80) is how often the encoder sees each image in training, counted in whole images:
# reconstruction and rotation look at 1, jigsaw at 4 quarters, instance and barlow_twins at 2. So a
# step with all four tasks sees 5, with one task an image 1.25. Repeat the command to go on with a
# run that was cut off.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
data="--dataset $1 --train_images 20000 --mixed_precision"
out=$2
passes=${3:-80}

pretrain() {  # NAME IMAGES_PER_STEP_AND_IMAGE FLAG ...
  local name=$1 images=$2
  shift 2
  python pretrain_tte.py $data --net ResNet_teacher --batch_size 256 --schedule cosine --targets= \
    --seeds 2 --train_dir "$out/$name" "$@" \
    --epochs "$(awk "BEGIN { print int($passes / $images + 0.5) }")"
}
alone="--regularizer none --ensemble none"
pretrain instance 2 --tasks instance $alone
pretrain barlow_twins 2 --tasks barlow_twins $alone
pretrain essl 3 --tasks "instance(temperature=0.5),rotation(weight=0.4)" --balance none $alone
pretrain plain_sum 5 $alone
pretrain tte 5
pretrain tte_one_task 1.25 --tasks_per_image 1 --regularizer none

encoders=$(printf "$out/%s," instance barlow_twins essl plain_sum tte tte_one_task)
python evaluate.py --dataset "$1" --train_images 20000 --seeds 2 --out_dir "$out/scores" \
  --encoder "${encoders}random:$out/tte,pixels"
python evaluate.py --dataset "$1" --train_images 20000 --seeds 2 --out_dir "$out/bias" \
  --bias --bias_epochs 3 --encoder "$out/plain_sum,$out/tte,$out/tte_one_task"
