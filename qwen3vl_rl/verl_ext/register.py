"""Every place where we extend verl 0.9.1, vLLM 0.24.0 or torch 2.11, with the reason and the test.

verl imports this module in each process of a run, because the launcher names it in `VERL_USE_EXTERNAL_MODULES`. The
hooks of `AFTER_IMPORT` are then loaded as soon as verl has imported the module that they extend, and not before: a
worker that never needs a trainer does not spend seconds on importing one. The hooks of `NAMED_IN_RECIPE` are loaded by
verl itself, from a key of the recipe.

To add a hook, write its module in this folder, list it here, and name the test that fails once verl makes it
unnecessary or moves what it overwrites.
"""

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import NamedTuple


class Hook(NamedTuple):
    module: str  # ours, below `qwen3vl_rl.verl_ext`
    extends: str  # the library's module, or the key of the recipe that names ours
    overwrites: str | None  # the private name that it replaces; None: it uses a public registry or key
    reason: str
    test: str  # below tests/


AFTER_IMPORT: tuple[Hook, ...] = (
    Hook(
        module="fsdp_engine",
        extends="verl.workers.engine",
        overwrites=None,
        reason="packed attention, compiled blocks, frozen vision tower, logits of responses only, no shards on one GPU",
        test="verl_ext/test_fsdp_engine.py",
    ),
    Hook(
        module="policy_loss",
        extends="verl.trainer.ppo.core_algos",
        overwrites=None,
        reason="GSPO as a mean over sequences whatever the KL term is, and without a pass for old log-probabilities",
        test="verl_ext/test_policy_loss.py",
    ),
    Hook(
        module="agent_loop",
        extends="verl.experimental.agent_loop.agent_loop",
        overwrites=None,
        reason="prompts and pictures are prepared once for all answers; verl does it for every answer",
        test="verl_ext/test_agent_loop.py",
    ),
    Hook(
        module="whole_prompts",
        extends="verl.trainer.ppo.v1",
        overwrites="TRAINER_REGISTRY['sync'], TRAINER_REGISTRY['colocate_async'], PPOTrainer._balance_batch",
        reason="all answers to a prompt go to one rank; register_trainer refuses names that are taken",
        test="verl_ext/test_whole_prompts.py",
    ),
    Hook(
        module="rollout_adapter",
        extends="verl.workers.rollout.base",
        overwrites="_ROLLOUT_REGISTRY['vllm', 'async']",
        reason="each run hands weights to vLLM at its own socket; verl has one name for all runs of a machine",
        test="verl_ext/test_vllm_weights.py",
    ),
)

NAMED_IN_RECIPE: tuple[Hook, ...] = (
    Hook(
        module="engine_config",
        extends="actor_rollout_ref.{actor,ref}.fsdp_config._target_, engine._target_",
        overwrites=None,
        reason="our engine's switches have one validated schema",
        test="verl_ext/test_engine_config.py",
    ),
    Hook(
        module="replay_buffer",
        extends="trainer.v1.sampler.custom_sampler",
        overwrites=None,
        reason="reward parts of every training step, pages of validation answers, dead engines, missing answers",
        test="verl_ext/test_replay_buffer.py",
    ),
    Hook(
        module="reward_manager",
        extends="reward.reward_manager",
        overwrites=None,
        reason="the reward learns how many tokens an answer has",
        test="test_pipeline.py",
    ),
    Hook(
        module="checkpoint_callback",
        extends="trainer.checkpoint_callback_class",
        overwrites=None,
        reason="the latest and the best checkpoint are kept; verl knows no best",
        test="training/test_checkpoints.py",
    ),
    Hook(
        module="vllm_weights",
        extends="actor_rollout_ref.rollout.engine_kwargs.vllm.worker_extension_cls",
        overwrites="vLLMColocateWorkerExtension._get_zmq_handle, .update_weights_from_ipc (on a CPU)",
        reason="the worker's side of the socket; vLLM on a CPU drops the linear weights that verl would load into",
        test="verl_ext/test_vllm_weights.py",
    ),
    Hook(
        module="cpu_platform",
        extends="VERL_USE_EXTERNAL_MODULES, on a CPU",
        overwrites="torch.distributed.init_process_group",
        reason="verl has no CPU platform, and asks torch for the process group `cpu:gloo,cpu:gloo`",
        test="training/test_cpu.py",
    ),
)


class _LoadAfter(MetaPathFinder, Loader):
    """Imports our module right after the library's module that it extends."""

    def __init__(self, hooks: Sequence[Hook]):
        self._hooks = {hook.extends: f"{__package__}.{hook.module}" for hook in hooks}
        self._loaders: dict[str, Loader] = {}

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name not in self._hooks or name in self._loaders:
            return None
        self._loaders[name] = None  # the lookup below asks us again
        spec = find_spec(name)
        self._loaders[name], spec.loader = spec.loader, self
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loaders[spec.name].create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__.loader = module.__loader__ = self._loaders[module.__name__]  # as if we had not been there
        module.__loader__.exec_module(module)
        importlib.import_module(self._hooks[module.__name__])


def load(hooks: Sequence[Hook] = AFTER_IMPORT) -> None:
    """Load each hook after its library's module: now, where that is imported already, else when it will be."""
    sys.meta_path.insert(0, _LoadAfter(hooks))
    for hook in hooks:
        if hook.extends in sys.modules:
            importlib.import_module(f"{__package__}.{hook.module}")


load()
