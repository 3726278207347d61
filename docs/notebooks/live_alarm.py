# %% [markdown] en
# # From a run to a live alarm
#
# A run becomes an alarm that needs the current alone, is one file, and watches a live current without the training code.
# Training has eight steps and three short simulated furnaces: **the numbers of this page mean nothing.** What a real alarm
# detects is in [early warning](../early_warning.md).
# %% [markdown] zh
# # 从一次运行到实时报警
#
# 由一次运行生成报警：只需要电流，只有一个文件，监视实时电流时不需要训练代码。训练只有八步、三台很短的仿真炉：**本页的数字没有意义。** 真实报警的检出情况见[提前预警](../early_warning.md)。
# %% [markdown] en
# ## A run
#
# The smallest system there is: [CLIP](../systems.md#clip-two-towers), two encoders without a codebook, which compiles quickest.
# An alarm is made of a run of any system in the same way. The config is a Python file:
# %% [markdown] zh
# ## 一次运行
#
# 用最小的系统：[CLIP](../systems.md#clip-two-towers)，两个编码器，没有码本，编译最快。任何系统的运行都用同样的方法生成报警。配置是一个 Python 文件：
# %%
# %matplotlib inline
import pathlib
import shutil

import numpy as np

import fmalign_jax as fm

shutil.copytree(fm.sample(), "recordings")
pathlib.Path("small.py").write_text('''
from ml_collections import ConfigDict

from fmalign_jax.config import shipped_config


def get_config() -> ConfigDict:
    config = shipped_config("systems:clip+smoke")
    config.data.source = "fmalign_jax.data.recordings.RecordingFiles"
    config.data.path = "recordings"
    config.data.options = ConfigDict()
    config.data.split.by = "auto"
    config.data.lead_s = 240.0
    config.max_steps = 8
    return config
''');
# %%
# !fmalign train small.py --workdir=runs/small 2> train.log | grep -E "steps|clip_accuracy"
# %% [markdown] en
# ## The alarm
#
# `run.alarm` trains a head on the labelled *video*, applies it to the current, and chooses the level at which an alarm is raised,
# so that it stays within a budget of false alarms an hour on validation. `baselines=False` leaves out the plain rules that
# it is otherwise compared with: do not leave them out in earnest.
# %% [markdown] zh
# ## 报警
#
# `run.alarm` 在有标签的*视频*上训练分类头，用于电流，并选定触发报警的阈值，使验证集上每小时的误报不超过预算。`baselines=False` 去掉了用来对比的简单规则：正式使用时不要去掉。
# %%
run = fm.load("runs/small")
made = run.alarm(false_alarms_per_hour=1.0, baselines=False, bootstrap_draws=50)
made.to_frame()[["score", "split", "detection_rate", "false_alarms_per_hour"]]
# %% [markdown] en
# `detection_rate` is the share of abnormal episodes that were warned of before they were visible;
# [what the columns mean](../early_warning.md#the-definitions). One furnace has so few episodes that even a rate of 1 says nothing:
# watch what this alarm does below.
# %% [markdown] zh
# `detection_rate` 是在可见之前就得到预警的异常时段所占的比例；[各列的含义](../early_warning.md#the-definitions)。一台炉的异常时段太少，即使检出率为 1 也说明不了什么：看下面这个报警的实际表现。
# %% [markdown] en
# ## The file for the control room
#
# The alarm is one file. Opening it runs no code of others, so it can be sent and, if you like,
# [signed](../security.md). It carries its channels, its time step and its levels.
# %% [markdown] zh
# ## 交给控制室的文件
#
# 报警就是一个文件。打开它不会运行他人的代码，因此可以发送给别人，需要时还可以[签名](../security.md)。文件里有通道、时间步和各个阈值。
# %%
shutil.copy(made.path, "alarm.fmalign")
alarm = fm.load_alarm("alarm.fmalign")
settings = alarm.settings
print(settings.channels, f"tick {settings.tick_s} s")
print(pathlib.Path("alarm.fmalign").stat().st_size // 1000, "kB")
# %% [markdown] en
# ## Watching a current
#
# `alarm.watch` runs the alarm over a current in memory, exactly as the monitor runs it over a file. There is one reading a
# tick, from the first full window on.
# %% [markdown] zh
# ## 监视一段电流
#
# `alarm.watch` 在内存中的电流上运行报警，与监视程序在文件上的运行完全相同。从第一个完整的窗口起，每个时间步（tick）有一个读数。
# %%
table = np.genfromtxt("recordings/furnace_3.csv", delimiter=",", skip_header=1)
readings = alarm.watch(table[:, 1:], table[:, 0])
readings.plot()
# %%
frame = readings.to_frame()
print(f"{len(frame)} readings, alarm on in {readings.active.mean():.0%}")
frame.head(3)
# %% [markdown] en
# An alarm that is on most of the time warns of nothing, whatever its detection rate. Made of a real run, on ten simulated furnaces of
# 50 minutes, it detected about nine of ten episodes on furnaces it had never seen, at less than one false alarm in two
# hours ([what was measured](../early_warning.md#what-was-measured)).
# %% [markdown] zh
# 大部分时间都处于报警状态，等于没有预警，检出率再高也没用。用真实的运行（十台仿真炉，每台 50 分钟）做出的报警，在从未见过的炉上检出约九成的异常时段，误报每两小时不到一次（[测得的结果](../early_warning.md#what-was-measured)）。
# %% [markdown] en
# ## In the control room
#
# `fmalign monitor` reads a CSV file, or lines as they arrive. There it needs the alarm file and neither the recordings nor
# the run. Here it reads the same current from a file, shows only changes, and writes every reading to a log:
# %% [markdown] zh
# ## 在控制室里
#
# `fmalign monitor` 读一个 CSV 文件，或逐行读取到来的数据。那里只需要报警文件，不需要记录，也不需要运行目录。下面从文件读同一段电流，只显示变化，并把每个读数写入日志：
# %%
# !fmalign monitor --alarm alarm.fmalign --input recordings/furnace_3.csv --changes --log readings.csv 2> monitor.log
# %%
log = np.genfromtxt("readings.csv", delimiter=",", names=True, usecols=(0, 1))
print(log.dtype.names, len(log))
print("same as alarm.watch:", np.allclose(log["probability"], readings.probability, atol=1e-5))
# %% [markdown] en
# A live file is followed with `--follow`; states such as `NO DATA`, restarts and a service of systemd are described in
# [monitor](../monitor.md).
#
#     fmalign monitor --alarm alarm.fmalign --input current.csv --follow --log readings.csv --changes
# %% [markdown] zh
# 跟随一个正在增长的文件用 `--follow`；`NO DATA` 等状态、重启，以及 systemd 服务的写法，见[监视程序](../monitor.md)。
#
#     fmalign monitor --alarm alarm.fmalign --input current.csv --follow --log readings.csv --changes
