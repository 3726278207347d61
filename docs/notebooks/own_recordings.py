# %% [markdown] en
# # Your own recordings
#
# From arrays, `.npz` files or a video beside a CSV to a config and a first training. The recordings of this page are made up
# or simulated, and training has two steps: **its numbers mean nothing.** All formats and options: [recordings](../recordings.md).
# %% [markdown] zh
# # 使用自己的记录
#
# 从数组、`.npz` 文件，或视频加 CSV，到一份配置和第一次训练。本页的记录是编造或仿真的，训练只有两步：**数字没有意义。** 全部格式和选项见[记录](../recordings.md)。
# %% [markdown] en
# ## What a recording is
#
# One continuous measurement of one furnace, as two *streams*: frames and a sensor. Each keeps its own rate. Both need times in
# seconds **on the same clock**; nothing has to be resampled.
#
# From arrays, write one `.npz` file a recording:
# %% [markdown] zh
# ## 什么是一段记录
#
# 一台炉的一次连续测量，包含两个流（stream）：画面和传感器。每个流保持自己的采样率。两个流都要有**同一时钟**上的时间，单位秒；不需要重采样。
#
# 手里是数组时，每段记录写成一个 `.npz` 文件：
# %%
import pathlib
import shutil

import numpy as np

import fmalign_jax as fm

seconds = 600
rng = np.random.default_rng(0)
pathlib.Path("arrays").mkdir()
for name in ("heat_01", "heat_02", "heat_03"):
    np.savez_compressed(
        f"arrays/{name}.npz",
        frames=rng.integers(0, 256, (seconds, 64, 64, 3), dtype=np.uint8),
        frame_t=np.arange(seconds) / 1.0,  # 1 frame a second
        sensor=rng.normal(9000, 500, (2 * seconds, 3)),
        sensor_t=np.arange(2 * seconds) / 2.0,  # 2 rows a second
        channel_names=np.array(["a", "b", "c"]),
        sensor_unit="A",
    )
# %% [markdown] en
# With videos, put a CSV of the same name beside each. The sample of the package has this form:
# %% [markdown] zh
# 手里是视频时，在每个视频旁边放一个同名的 CSV。随包的样本就是这种形式：
# %%
shutil.copytree(fm.sample(), "furnaces")
for path in sorted(pathlib.Path("furnaces").glob("furnace_1*")):
    text = "(video)" if path.suffix == ".mp4" else path.read_text()[:60]
    print(path.name, text, sep="\n", end="\n\n")
# %% [markdown] en
# ## A first config
#
# `fmalign init` reads a folder with the readers of training, prints what it holds and what cannot be read, and writes a
# config. Read its table once: a column that was taken for another thing is a wrong number that nothing else can find.
# %% [markdown] zh
# ## 第一份配置
#
# `fmalign init` 用训练时的读取程序读一个目录，打印其中有什么、什么读不了，并写出一份配置。这张表务必看一遍：某一列如果被当成了别的东西，就是一个别处发现不了的错误数字。
# %%
# !fmalign init arrays --out arrays.py 2> init.log
# %%
# !fmalign init furnaces --out mine.py 2> init.log
# %% [markdown] en
# The config says of each value where it comes from: `DATA`, the recordings; `DEFAULT`, the package; `OPEN`, nobody yet. The lead
# is open. If you do not know it, search for it ([lead](../lead.md)).
# %% [markdown] zh
# 配置中注明每个值的来源：`DATA` 来自记录；`DEFAULT` 来自本包；`OPEN` 还没有人决定。提前量属于 OPEN。如果不知道提前量，就搜索它（[提前量](../lead.md)）。
# %%
text = pathlib.Path("mine.py").read_text()
print(*text[text.index("def get_config") :].splitlines()[:32], sep="\n")
# %% [markdown] en
# ## What is checked
#
# Times, shapes, types, gaps, labels, names: whatever cannot be right is refused before training, in one line that says the
# rule, what came, and what to do. Here, the times of a sensor go back:
# %% [markdown] zh
# ## 检查什么
#
# 时间、形状、类型、缺口、标签、名称：凡是不可能正确的，训练之前就会拒绝，并用一行说明规则、实际值和处理办法。下面的例子里，传感器的时间倒退了：
# %%
raw = dict(np.load("arrays/heat_01.npz"))
raw["sensor_t"][100] = 3.0
pathlib.Path("bad").mkdir()
np.savez_compressed("bad/heat_01.npz", **raw)
# !fmalign prepare recordings --data.path=bad 2> prepare.log || tail -n 1 prepare.log
# %% [markdown] en
# `fmalign prepare` checks everything without training and prints how regular the clocks are:
# %% [markdown] zh
# `fmalign prepare` 只检查、不训练，并打印时钟的规整程度：
# %%
# !fmalign prepare mine.py 2> prepare.log
# %% [markdown] en
# ## Training
#
# `fmalign train mine.py` would be the whole command. Here the lead of the sample is given, and the other settings make the model
# small and leave parts out, so that it compiles fast.
# %% [markdown] zh
# ## 训练
#
# 完整的命令就是 `fmalign train mine.py`。这里给出样本的提前量；其余设置把模型改小并去掉一些部分，以加快编译。
# %%
# !fmalign train mine.py --workdir=runs/mine --data.lead_s=240 --max_steps=2 \
#     --batch_size=8 --model.width=32 --codebook.codes=32 \
#     --model.transformer.layers=0 --objectives.reconstruction.weight=0 \
#     --objectives.window_contrast.weight=0 2> train.log | grep -E "steps|perplexity"
# %%
run = fm.load("runs/mine")
print(run.modalities, run.config.data.lead_s, run.config.data.tick_s)
# %% [markdown] en
# ## Arrays in memory
#
# A finished run also encodes arrays, without a file: a pair of values and times by modality.
# %% [markdown] zh
# ## 内存中的数组
#
# 训练好的运行也能直接编码数组，不需要文件：每种模态给出一对数值和时间。
# %%
table = np.genfromtxt("furnaces/furnace_3.csv", delimiter=",", skip_header=1)
encoded = run.encode(current=(table[:, 1:], table[:, 0]))
encoded.features["current"].shape  # windows, ticks, width
# %% [markdown] en
# ## Next
#
# Labels are not needed for training, but for the [evaluation](../evaluation.md): put `NAME.labels.csv` beside each CSV. Then
# go on to [a live alarm](live_alarm.md).
# %% [markdown] zh
# ## 下一步
#
# 训练不需要标签，[评估](../evaluation.md)才需要：在每个 CSV 旁边放 `NAME.labels.csv`。然后继续看[实时报警](live_alarm.md)。
