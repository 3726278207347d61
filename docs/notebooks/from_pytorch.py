# %% [markdown] en
# # If you come from PyTorch
#
# What stands where, and one small example: a loss term and an encoder in a file of your own, two training steps, and
# features back in PyTorch. Two steps teach nothing: **the numbers mean nothing.**
#
# | PyTorch | Here | Difference |
# |---|---|---|
# | `Dataset` | a source, such as `fmalign_jax.data.recordings.RecordingFiles` | reads whole recordings; windows are cut, and the lead applied, afterwards |
# | `DataLoader` | the Grain pipeline (`data/pipeline.py`) | its position is saved with the checkpoint: a resumed run sees the same batches |
# | `nn.Module` | `flax.linen.Module` | holds no parameters: they are given to `apply` |
# | `loss.backward()` | `jax.grad`, inside the step | nothing is accumulated, so there is no `zero_grad` |
# | `optimizer.step()` | `state, metrics = step(state, batch)` | a pure function; the old state is used up (donated) |
# | model, optimiser, buffers | `TrainState` | one tree of arrays; a codebook is in it, too |
# | `state_dict()`, `torch.save` | an Orbax checkpoint in `RUN/checkpoints` | state, optimiser, position of the data, config and digests |
# | `.train()`, `.eval()` | `train=True`, `train=False` | an argument of each call, not a mode |
# | `.detach()` | `jax.lax.stop_gradient` | |
# | `torch.manual_seed` | keys made of (seed, step, name) | no global generator |
# | `.to("cuda")` | nothing | all devices that JAX sees are used |
# | `DistributedDataParallel` | a mesh, and `jax.jit` over it | code sees the global batch; the compiler divides it |
# | `torch.compile` | `jax.jit` | always on: the first step compiles; new shapes compile anew |
# %% [markdown] zh
# # 写给熟悉 PyTorch 的读者
#
# 各个概念的对应关系，以及一个小例子：在自己的文件里写一个损失项和一个编码器，训练两步，再把特征交回 PyTorch。两步学不到东西：**数字没有意义。**
#
# | PyTorch | 这里 | 差别 |
# |---|---|---|
# | `Dataset` | 数据源，例如 `fmalign_jax.data.recordings.RecordingFiles` | 读整段记录；之后才切窗口、应用提前量 |
# | `DataLoader` | Grain 流水线（`data/pipeline.py`） | 它的位置随检查点保存：续训时看到同样的批次 |
# | `nn.Module` | `flax.linen.Module` | 自身不保存参数：参数传给 `apply` |
# | `loss.backward()` | `jax.grad`，在一步之内 | 梯度不累积，所以没有 `zero_grad` |
# | `optimizer.step()` | `state, metrics = step(state, batch)` | 纯函数；旧的状态随之失效（donated） |
# | 模型、优化器、buffer | `TrainState` | 一棵数组的树；码本也在其中 |
# | `state_dict()`、`torch.save` | `RUN/checkpoints` 中的 Orbax 检查点 | 状态、优化器、数据位置、配置和摘要 |
# | `.train()`、`.eval()` | `train=True`、`train=False` | 每次调用的参数，不是一种模式 |
# | `.detach()` | `jax.lax.stop_gradient` | |
# | `torch.manual_seed` | 由（种子、步、名称）得到的 key | 没有全局随机数发生器 |
# | `.to("cuda")` | 不需要 | JAX 能看到的设备全部使用 |
# | `DistributedDataParallel` | mesh，以及其上的 `jax.jit` | 代码看到的是全局批次；由编译器切分 |
# | `torch.compile` | `jax.jit` | 始终启用：第一步编译；形状一变就重新编译 |
# %% [markdown] en
# ## A loss term and an encoder of your own
#
# Both are Linen modules in any file that Python can import. A pool turns the map of a frame into a vector; an objective takes
# the features of a batch and returns one loss a window and metrics. What each kind of part must do:
# [configuration](../configuration.md#adding-a-part-one-file-and-one-config-entry).
# %% [markdown] zh
# ## 自己的损失项和编码器
#
# 两者都是 Linen 模块，放在 Python 能导入的任何文件里。pool 把一帧的特征图变成向量；损失项接收一批特征，为每个窗口返回一个损失，另加指标。每类部件要做什么：[配置](../configuration.md#adding-a-part-one-file-and-one-config-entry)。
# %%
import pathlib
import shutil

import fmalign_jax as fm

shutil.copytree(fm.sample(), "recordings")
pathlib.Path("my_parts.py").write_text('''
import flax.linen as nn
import jax.numpy as jnp


class MeanPool(nn.Module):
    """Plain mean over the positions, [B, T, h, w, C] -> [B, T, C]."""

    @nn.compact
    def __call__(self, features):
        return features.mean(axis=(2, 3))


class SlowChange(nn.Module):
    """Semantic features change little from tick to tick."""

    modality: str = "video"

    @nn.compact
    def __call__(self, features, *, train):
        change = jnp.diff(features.semantic[self.modality], axis=1)  # [B, T - 1, D]
        loss = jnp.square(change).mean(axis=(1, 2))  # [B]
        return loss, {f"change/{self.modality}": loss}
''');
# %% [markdown] en
# The config names them; the loop, the model and the tests of the package stay as they are. It starts from the
# smallest shipped config, [CLIP](../systems.md#clip-two-towers) in miniature. With `python -m`, Python finds `my_parts` in this
# folder; with `fmalign` alone it must be installed or on `PYTHONPATH`.
# %% [markdown] zh
# 在配置里写上它们的名字；包里的循环、模型和测试都不用改。这份配置从最小的随包配置出发：缩小版的 [CLIP](../systems.md#clip-two-towers)。用 `python -m` 启动时，Python 会在当前目录找到 `my_parts`；只用 `fmalign` 时，它必须已安装或在 `PYTHONPATH` 中。
# %%
pathlib.Path("mine.py").write_text('''
from ml_collections import ConfigDict

from fmalign_jax.config import component, shipped_config


def get_config() -> ConfigDict:
    config = shipped_config("systems:clip+smoke")
    config.data.source = "fmalign_jax.data.recordings.RecordingFiles"
    config.data.path = "recordings"
    config.data.options = ConfigDict()
    config.data.split.by = "auto"
    config.data.lead_s = 240.0
    config.model.modalities.video.pool = component("my_parts.MeanPool")
    config.objectives.slow_change = component("my_parts.SlowChange", weight=0.1)
    config.log_every_steps = 1
    return config
''');
# %%
# !python -m fmalign_jax train mine.py --workdir=runs/mine --max_steps=2 2> train.log | grep -E "loss|steps"
# %% [markdown] en
# ## Restoring the run
#
# `fm.load` is `load_state_dict` and `.eval()` in one: parameters and statistics of the best checkpoint, frozen. A run may come from
# somebody else, so that code outside the package is imported only if you say that you trust it.
# %% [markdown] zh
# ## 恢复这次运行
#
# `fm.load` 相当于 `load_state_dict` 加 `.eval()`：最好的检查点的参数和统计量，已冻结。运行可能来自他人，所以只有明确表示信任时，才会导入包以外的代码。
# %%
run = fm.load("runs/mine", trust_code=["my_parts"])
encoded = run.encode(split="validation")
features = encoded.features["current"]
run.step, features.shape  # windows, ticks, width
# %% [markdown] en
# ## Features to PyTorch
#
# Everything that is returned is NumPy; `torch.from_numpy` shares its memory.
# %% [markdown] zh
# ## 把特征交给 PyTorch
#
# 返回的都是 NumPy 数组；`torch.from_numpy` 与它共用内存。
# %%
try:
    import torch
except ImportError:
    print("no PyTorch here")
else:
    inputs = torch.from_numpy(features.mean(axis=1))
    labels = torch.from_numpy(encoded.window_label.astype("int64"))
    head = torch.nn.Linear(inputs.shape[1], len(encoded.label_names))
    loss = torch.nn.functional.cross_entropy(head(inputs), labels, ignore_index=-1)
    loss.backward()
    print(tuple(inputs.shape), head.weight.grad is not None)
# %% [markdown] en
# ## The step by hand
#
# What `fmalign train` does in its loop. These names are not part of the [public interface](../api.md#what-is-public) and may change;
# they are shown because a training loop is what a PyTorch user looks for first.
# %% [markdown] zh
# ## 手写一步训练
#
# 这就是 `fmalign train` 在循环里做的事。这些名字不属于[公开接口](../api.md#what-is-public)，可能改变；放在这里，是因为熟悉 PyTorch 的读者首先会找训练循环。
# %%
from contextlib import closing

from fmalign_jax.config import load_file
from fmalign_jax.training import setup, sharding
from fmalign_jax.training.state import make_trainer
from fmalign_jax.training.step import make_train_step

config = load_file(pathlib.Path("mine.py")).get_config()
data = setup.load_data(config)  # Dataset
trainer = make_trainer(config, steps_per_epoch=data.steps_per_epoch, steps=data.planned_steps)
mesh = sharding.make_mesh()  # all devices
state = setup.first_state(trainer, data, mesh)  # parameters, optimiser, statistics
step = make_train_step(trainer, mesh)  # compiled when it is first called
with closing(setup.training_batches(data, config, seed=config.seed)) as batches:
    for _ in range(2):
        batch = sharding.place_batch(next(batches), mesh)
        state, metrics = step(state, batch)  # forward, gradients, Adam
        print(int(state.step), sorted(metrics["scalars"])[:4])
