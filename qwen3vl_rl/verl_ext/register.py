"""Every place where we extend verl 0.9.1, or use a private name of a library, with the reason and the test.

verl imports this module in each process of a run, because the launcher names it in `VERL_USE_EXTERNAL_MODULES`. The
hooks in `AFTER_IMPORT` are loaded as soon as verl has imported the module that they extend, and not before: a worker
that needs no trainer does not spend seconds on importing one. verl itself loads the hooks in `NAMED_IN_RECIPE`, from a
config key. Our engine calls those in `ON_THE_MODEL` on a loaded model.

To add a hook, write its module, list it here, and name the test that fails once the library makes it unnecessary or
moves a private name.
"""

import importlib
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import NamedTuple

OURS = "qwen3vl_rl.verl_ext"


class Hook(NamedTuple):
    module: str  # ours
    extends: str  # the library's module, or the config key that names ours
    private: tuple[str, ...]  # names that we override, set or call, as FILE:NAME in site-packages; () if all are public
    reason: str
    test: str  # under tests/


AFTER_IMPORT: tuple[Hook, ...] = (
    Hook(
        module=f"{OURS}.processor",
        extends="verl.utils.tokenizer.tokenizer",
        private=("verl/utils/tokenizer/tokenizer.py:hf_processor",),
        reason="processors of families that verl does not know, such as InternVL; verl continues without one",
        test="verl_ext/test_processor.py",
    ),
    Hook(
        module=f"{OURS}.fsdp_engine",
        extends="verl.workers.engine",
        private=(
            *(
                f"verl/workers/engine/fsdp/transformer_impl.py:FSDPEngine.{name}"
                for name in (
                    "_build_module",
                    "_build_fsdp_module",
                    "_build_lora_module",
                    "_gather_and_unpad_packed",
                    "_autocast_dtype",
                    "_is_lora",
                )
            ),
            "peft/tuners/tuners_utils.py:BaseTunerLayer._disable_adapters",
        ),
        reason="packed attention, compiled blocks, frozen vision tower, logits of responses only, no shards on one GPU",
        test="verl_ext/test_fsdp_engine.py",
    ),
    Hook(
        module=f"{OURS}.micro_batches",
        extends="verl.workers.engine",
        private=("verl/workers/engine/fsdp/transformer_impl.py:prepare_micro_batches",),
        reason="micro-batches of groups of answers, which share their prompt; verl fills them with single samples",
        test="verl_ext/test_micro_batches.py",
    ),
    Hook(
        module=f"{OURS}.position_ids",
        extends="verl.utils.tensordict_utils",
        private=("verl/utils/tensordict_utils.py:maybe_fix_3d_position_ids",),
        reason="batches of equally long sequences, whose position ids verl splits along another dimension than torch",
        test="verl_ext/test_position_ids.py",
    ),
    Hook(
        module=f"{OURS}.policy_loss",
        extends="verl.trainer.ppo.core_algos",
        private=("verl/trainer/ppo/core_algos.py:POLICY_LOSS_REGISTRY",),
        reason="losses without a pass for the old policy; GSPO as a mean over sequences, independent of the KL term; "
        "GMPO as a mean over all micro-batches",
        test="verl_ext/test_policy_loss.py",
    ),
    Hook(
        module=f"{OURS}.agent_loop",
        extends="verl.experimental.agent_loop.agent_loop",
        private=(),
        reason="prompts and images are prepared once for all answers; verl repeats this for every answer",
        test="verl_ext/test_agent_loop.py",
    ),
    Hook(
        module=f"{OURS}.group_by_prompt",
        extends="verl.trainer.ppo.v1",
        private=(
            "verl/trainer/ppo/v1/trainer_base.py:TRAINER_REGISTRY",
            "verl/trainer/ppo/v1/trainer_base.py:PPOTrainer._balance_batch",
            "verl/trainer/ppo/v1/trainer_base.py:PPOTrainer._update_actor",
            "verl/trainer/ppo/v1/trainer_base.py:PPOTrainer._get_required_batch_multiple",
        ),
        reason="all answers to a prompt go to one rank; register_trainer rejects existing names",
        test="verl_ext/test_group_by_prompt.py",
    ),
    Hook(
        module=f"{OURS}.rollout_adapter",
        extends="verl.workers.rollout",
        private=(
            "verl/workers/rollout/base.py:_ROLLOUT_REGISTRY",
            "verl/workers/rollout/replica.py:_load_vllm",
            "verl/workers/rollout/replica.py:_load_sglang",
        ),
        reason="registers our parts of the engines: vllm_weights, vllm_server and sglang_server",
        test="verl_ext/test_vllm_weights.py",
    ),
)

NAMED_IN_RECIPE: tuple[Hook, ...] = (
    Hook(
        module=f"{OURS}.engine_config",
        extends="actor_rollout_ref.{actor,ref}.fsdp_config._target_, engine._target_",
        private=(),
        reason="one validated schema for our engine's switches",
        test="verl_ext/test_engine_config.py",
    ),
    Hook(
        module=f"{OURS}.agent_loop_worker",
        extends="actor_rollout_ref.rollout.agent.agent_loop_manager_class",
        private=(
            "verl/experimental/agent_loop/agent_loop.py:AgentLoopWorker._run_agent_loop",
            "verl/experimental/agent_loop/agent_loop.py:AgentLoopWorker._compute_multi_modal_inputs",
            "verl/experimental/agent_loop/agent_loop.py:AgentLoopWorker._compute_score",
            "verl/trainer/ppo/v1/agent_loop_tq.py:AgentLoopWorkerTQ._agent_loop_postprocess",
            "ray/actor.py:_ActorClassMetadata.modified_class",  # verl's worker is decorated where it is defined
        ),
        reason="builds an agent loop once, prepares the images of a prompt once, and gives rewards only tokens",
        test="verl_ext/test_agent_loop_worker.py",
    ),
    Hook(
        module=f"{OURS}.replay_buffer",
        extends="trainer.v1.sampler.custom_sampler",
        private=(),
        reason="reports reward parts and pages of validation answers; stops for dead engines and missing answers",
        test="verl_ext/test_replay_buffer.py",
    ),
    Hook(
        module=f"{OURS}.filtering",
        extends="the sampler above, and the `sync` trainer that group_by_prompt registers",
        private=(
            *(
                f"verl/trainer/ppo/v1/replay_buffer.py:ReplayBuffer.{name}"
                for name in (
                    "_dapo_filtered_keys",
                    "_dapo_classification_cache",
                    "_evict_terminal_groups",
                    "_select_prompt_uids",
                )
            ),
            *(
                f"verl/trainer/ppo/v1/trainer_base.py:PPOTrainer.{name}"
                for name in ("_next_train_batch", "_compute_metrics", "_save_checkpoint", "_load_checkpoint")
            ),
        ),
        reason="replaces prompts whose answers are alike within limits, and counts epochs by fetched prompts",
        test="verl_ext/test_filtering.py",
    ),
    Hook(
        module=f"{OURS}.reward_manager",
        extends="reward.reward_manager",
        private=(),
        reason="passes an answer's number of tokens to the reward; equal scores give an advantage of 0",
        test="verl_ext/test_reward_manager.py",
    ),
    Hook(
        module=f"{OURS}.any_ranks",
        extends="the checkpoint manager of verl's engine, in both stages",
        private=(
            "verl/workers/engine/fsdp/transformer_impl.py:FSDPEngine.checkpoint_manager",
            "torch/distributed/tensor/_utils.py:compute_local_shape_and_global_offset",
        ),
        reason="resumes a run on another number of GPUs; verl loads only shards of the same number of ranks",
        test="verl_ext/test_any_ranks.py",
    ),
    Hook(
        module=f"{OURS}.checkpoint_callback",
        extends="trainer.checkpoint_callback_class",
        private=(),
        reason="keeps the latest and the best checkpoint; verl does not know the best",
        test="training/test_checkpoints.py",
    ),
    Hook(
        module=f"{OURS}.vllm_weights",
        extends="actor_rollout_ref.rollout.engine_kwargs.vllm.worker_extension_cls",
        private=(
            "verl/workers/rollout/vllm_rollout/utils.py:vLLMColocateWorkerExtension._get_zmq_handle",
            "verl/workers/rollout/vllm_rollout/utils.py:vLLMColocateWorkerExtension.update_weights_from_ipc",
        ),
        reason="each run has its own socket for weights, where verl uses one name for all runs of a machine; vLLM on a "
        "CPU drops the linear weights that verl would load into",
        test="verl_ext/test_vllm_weights.py",
    ),
    Hook(
        module=f"{OURS}.shared_request",
        extends="the two servers below",
        private=(),
        reason="a server that returns all answers to a prompt for one request; verl's returns only the first",
        test="verl_ext/test_shared_request.py",
    ),
    Hook(
        module=f"{OURS}.vllm_server",
        extends="actor_rollout_ref.rollout.name=vllm, registered by rollout_adapter",
        private=("verl/workers/rollout/vllm_rollout/vllm_async_server.py:vLLMHttpServer._apply_quantization",),
        reason="shared requests of vLLM, which return only token ids, when the last answer ends; smaller rotary tables",
        test="verl_ext/test_vllm_server.py",
    ),
    Hook(
        module=f"{OURS}.sglang_server",
        extends="actor_rollout_ref.rollout.name=sglang, registered by rollout_adapter",
        private=(),
        reason="shared requests of sglang, which takes their images as a batch",
        test="verl_ext/test_shared_request.py",
    ),
    Hook(
        module=f"{OURS}.cpu_platform",
        extends="VERL_USE_EXTERNAL_MODULES, on a CPU",
        private=("torch/distributed/distributed_c10d.py:init_process_group",),
        reason="verl has no CPU platform, and would ask torch for the process group `cpu:gloo,cpu:gloo`",
        test="training/test_cpu.py",
    ),
    Hook(
        module="sft.dataset",
        extends="data.custom_cls (stage 1)",
        private=tuple(
            f"verl/utils/dataset/multiturn_sft_dataset.py:MultiTurnSFTDataset.{name}"
            for name in ("_build_messages", "_process_single_message")
        ),
        reason="the target continues the generation prompt, as generation does, with <think> if that does not open it",
        test="sft/test_dataset.py",
    ),
    Hook(
        module="sft.trainer",
        extends="torchrun -m sft.trainer (stage 1)",
        private=(
            "verl/trainer/sft_trainer.py:SFTTrainer._build_dataloader",
            "verl/trainer/sft_trainer.py:SFTTrainer._build_ckpt_handler",
            "verl/utils/checkpoint/checkpoint_handler.py:CheckpointHandler._load_dataloader_state",
        ),
        reason="verl skips an epoch after resuming at an epoch's end, restarts the data on another number of GPUs, and "
        "does not time its steps",
        test="soak/test_sft.py",
    ),
)

ON_THE_MODEL: tuple[Hook, ...] = (
    Hook(
        module="qwen3vl_rl.models.packed_attention",
        extends="transformers' AttentionInterface",
        private=(),
        reason="one attention call per layer for all images or samples of a batch, without the flash-attn package",
        test="models/test_packed_attention.py",
    ),
    Hook(
        module="qwen3vl_rl.models.families.qwen3_vl.parts",
        extends="Qwen3VLModel.forward",
        private=("transformers/models/qwen3_vl/modeling_qwen3_vl.py:Qwen3VLTextModel._deepstack_process",),
        reason="image features are inserted by positions known on the host; masks on the device make the host wait",
        test="models/families/qwen3_vl/test_parts.py",
    ),
    Hook(
        module="qwen3vl_rl.models.families.internvl.parts",
        extends="InternVLModel.forward",
        private=(),
        reason="image features are inserted by positions known on the host; masks on the device make the host wait",
        test="models/families/internvl/test_parts.py",
    ),
)


class _LoadAfter(MetaPathFinder):
    """Loads our hooks on a library's module when that is imported."""

    def __init__(self, hooks: Iterable[Hook]):
        self._hooks: dict[str, list[str]] = defaultdict(list)
        for hook in hooks:
            self._hooks[hook.extends].append(hook.module)
        self._looking: set[str] = set()

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name not in self._hooks or name in self._looking:
            return None
        self._looking.add(name)  # the lookup below calls this method again
        try:
            spec = find_spec(name)
        finally:
            self._looking.remove(name)
        if spec is not None:
            spec.loader = _Loader(spec.loader, self._hooks[name])
        return spec


class _Loader(Loader):
    """Executes the library's module, then imports ours."""

    def __init__(self, loader: Loader, modules: Sequence[str]):
        self._loader, self._modules = loader, modules

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__.loader = module.__loader__ = self._loader  # hide this loader
        self._loader.exec_module(module)
        for name in self._modules:
            importlib.import_module(name)


def load(hooks: Sequence[Hook] = AFTER_IMPORT) -> None:
    """Load each hook after the module that it extends: now if that is imported, else on its import."""
    sys.meta_path.insert(0, _LoadAfter(hooks))
    for hook in hooks:
        if hook.extends in sys.modules:
            importlib.import_module(hook.module)


load()
