# %% [markdown] en
# # First alignment in ten minutes
#
# Train on three short recordings, look at the codes, and evaluate them. You need `pip install -e '.[notebooks,frames]'`
# and two CPU cores. Everything is written into the folder you start in.
#
# **The numbers on this page mean nothing.** Training has eight steps and two furnaces, so that the page runs in a few minutes.
# What numbers of a real run look like is in the [results](../results.md).
# %% [markdown] zh
# # 十分钟完成第一次对齐
#
# 在三段短记录上训练，查看码，再做评估。需要 `pip install -e '.[notebooks,frames]'` 和两个 CPU 核。所有文件都写到启动时所在的目录。
#
# **本页的数字没有意义。** 为了几分钟就能运行完，训练只有八步、两台炉。真实运行的数字见[结果](../results.md)。
# %% [markdown] en
# ## The recordings
#
# `fm.sample()` is a folder that comes with the package: three simulated furnaces, 20 minutes each. A video lies beside a CSV
# of the current and one of labels. The current shows the abnormal condition about 240 s before the video does.
# %% [markdown] zh
# ## 记录
#
# `fm.sample()` 是随包提供的目录：三台仿真炉，每台 20 分钟。每段视频旁边有一个电流 CSV 和一个标签 CSV。异常工况在电流中出现，比在视频中早约 240 s。
# %%
# %matplotlib inline
import json
import pathlib
import shutil

import fmalign_jax as fm

shutil.copytree(fm.sample(), "recordings")
sorted(path.name for path in pathlib.Path("recordings").iterdir())
# %% [markdown] en
# ## Training
#
# `pretrain:smoke+recordings` is a shipped config: the furnace model in miniature, on recordings of your own. `data.lead_s`
# says how much earlier the current is read. The last three settings leave out what takes longest to compile; a real
# run keeps it. Labels are not used. The first step compiles the program, which takes most of the time.
# %% [markdown] zh
# ## 训练
#
# `pretrain:smoke+recordings` 是随包提供的配置：缩小的电熔镁炉模型，用自己的记录。`data.lead_s` 指定电流提前多少读取。最后三项设置去掉了编译最慢的部分；真实训练应保留。训练不使用标签。第一步要编译程序，大部分时间花在这里。
# %%
# !fmalign train pretrain:smoke+recordings --workdir=runs/first \
#     --data.path=recordings --data.lead_s=240 --max_steps=8 \
#     --model.transformer.layers=0 --objectives.reconstruction.weight=0 \
#     --objectives.window_contrast.weight=0 2> train.log
# %% [markdown] en
# The table shows the last validation. Three of its rows say most:
#
# | Row | Meaning | A good run |
# |---|---|---|
# | `shared_correlation/current-video` | correlation of what both modalities share | 0.7 and more |
# | `shared_kappa/current-video` | agreement of the shared codes beyond chance | 0.6 and more |
# | `perplexity/video`, `perplexity/current` | number of codes in real use | far above 1; near 1 the codebook has collapsed |
#
# All rows: [outputs](../outputs.md). The same command again would go on from the last checkpoint.
# %% [markdown] zh
# 表中是最后一次验证的结果。其中三行最重要：
#
# | 行 | 含义 | 好的运行 |
# |---|---|---|
# | `shared_correlation/current-video` | 两种模态共有部分的相关系数 | 0.7 以上 |
# | `shared_kappa/current-video` | 共享码的一致程度，已扣除随机水平 | 0.6 以上 |
# | `perplexity/video`、`perplexity/current` | 真正在用的码的个数 | 远大于 1；接近 1 表示码本已坍缩 |
#
# 全部各行见[输出](../outputs.md)。再次运行同一条命令，会从最后一个检查点继续。
# %% [markdown] en
# ## The codes
#
# `fm.load` opens the folder of the run and changes nothing in it. `run.encode` gives features and codes of every window.
# One row of the table is one window; `video_code_0` and `current_code_0` are its shared codes. Where they are equal, both
# modalities say the same, although the current was read 240 s earlier.
# %% [markdown] zh
# ## 码
#
# `fm.load` 打开运行目录，不改动其中任何内容。`run.encode` 给出每个窗口的特征和码。表中一行是一个窗口；`video_code_0` 和 `current_code_0` 是它的共享码。两者相同，就表示两种模态说的是同一件事，尽管电流是提前 240 s 读取的。
# %%
run = fm.load("runs/first")
encoded = run.encode("recordings/furnace_3.mp4")
print(run.modalities, {name: own.shape for name, own in encoded.features.items()})
encoded.to_frame().head()
# %%
encoded.plot()
# %% [markdown] en
# `furnace_3` was held out for validation: training has not seen it. Codes that change together with the label, in both
# modalities, are what training aims at.
# %% [markdown] zh
# `furnace_3` 留作验证：训练没有见过它。训练的目标是：两种模态的码都随标签一起变化。
# %% [markdown] en
# ## The evaluation
#
# Now labels are used for the first time. A head is trained on the frozen features of the *video* and applied unchanged to
# the *current*. To be quick, we ask for one random encoder, no oracle and few bootstrap draws; leave these three out in
# a real evaluation.
# %% [markdown] zh
# ## 评估
#
# 到这里才第一次用标签。在冻结的*视频*特征上训练分类头，再原样用于*电流*。为了节省时间，这里只用一个随机编码器、不训练上界（oracle）、自助法次数很少；真实评估时请去掉这三项设置。
# %%
evaluation = run.evaluate(random_encoders=1, oracle_epochs=0, bootstrap_draws=50)
table = evaluation.to_frame().set_index("what")
table[["balanced_accuracy", "auroc", "fdr", "mdr"]].round(2)
# %% [markdown] en
# How to read it:
#
# * `video->current` is the zero-shot result: no label of a current was used. Its balanced accuracy is `evaluation.transfer`.
# * Chance is 0.5 with two classes. `random` encoders were not trained: what they reach is no merit of the training. A run
#   must be clearly above both.
# * `fdr` is the false detection rate, `mdr` the missed detection rate: lower is better. A head that calls every window the same
#   has 1 in one of them and 0 in the other.
# * Here everything is at chance: eight steps teach nothing.
# * One validation furnace says nothing about the next one. Use several, and look at the intervals.
#
# Each number is explained in [evaluation](../evaluation.md), and written to `runs/first/evaluation/eval.json`.
# %% [markdown] zh
# 怎样读：
#
# * `video->current` 是零样本结果：没有用任何电流的标签。它的平衡准确率（balanced accuracy）就是 `evaluation.transfer`。
# * 两个类别时随机水平是 0.5。`random` 是未经训练的编码器：它达到的水平不是训练的功劳。一次运行必须明显高于这两者。
# * `fdr` 是误检率，`mdr` 是漏检率：越低越好。分类头如果把所有窗口判为同一类，两者就一个是 1、一个是 0。
# * 这里全部处于随机水平：八步学不到东西。
# * 一台验证炉说明不了下一台。应使用多台，并查看置信区间。
#
# 每个数字的含义见[评估](../evaluation.md)；数值写在 `runs/first/evaluation/eval.json`。
# %%
report = json.loads(pathlib.Path("runs/first/evaluation/eval.json").read_text())
print(report["headline_split"], evaluation.transfer)
# %% [markdown] en
# ## Next
#
# * The same on [your own recordings](own_recordings.md).
# * [A live alarm](live_alarm.md) from a run.
# * A real run: `fmalign train pretrain`, about five minutes on two idle cores, twelve simulated furnaces.
# %% [markdown] zh
# ## 下一步
#
# * 用[自己的记录](own_recordings.md)做同样的事。
# * 由一次运行得到[实时报警](live_alarm.md)。
# * 真实训练：`fmalign train pretrain`，两个空闲的核约五分钟，十二台仿真炉。
