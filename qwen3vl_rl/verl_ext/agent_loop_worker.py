"""Agent loop workers that do once what verl 0.9.1 does for every answer.

For every answer, verl builds an agent loop from its configuration and runs the processor twice over prompt and answer:
for the reward and for the trainer.
"""

import random
from collections.abc import Mapping
from copy import copy
from functools import cached_property
from typing import Any

import numpy as np
import ray
import torch
from tensordict import TensorDict
from verl import DataProto
from verl.experimental.agent_loop.agent_loop import AgentLoopOutput, DictConfigWrap
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopManagerTQ, AgentLoopWorkerTQ
from verl.utils.profiler import simple_timer

from qwen3vl_rl.models.families import find_family
from qwen3vl_rl.models.prepared_images import Recent
from qwen3vl_rl.verl_ext.agent_loop import NAME, ImageOnceAgentLoop

VerlWorker = AgentLoopWorkerTQ.__ray_metadata__.modified_class


class GroupWorker(VerlWorker):
    """verl's worker without its repeated work."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._image_inputs = Recent()

    @cached_property  # lazy: it changes the processor, which other agent loops use unchanged
    def _loop(self) -> ImageOnceAgentLoop:
        return ImageOnceAgentLoop(
            trainer_config=DictConfigWrap(self.config),
            server_manager=self.llm_client,
            tokenizer=self.tokenizer,
            processor=self.processor,
            dataset_cls=self.dataset_cls,
            data_config=DictConfigWrap(self.config.data),
            hf_model_type=self.hf_model_type,
        )

    async def _run_agent_loop(
        self,
        sampling_params: dict[str, Any],
        trajectory: dict[str, Any],
        *,
        agent_name: str,
        trace: bool = True,
        **fields: Any,
    ) -> None:
        """As in verl, but each answer gets a copy of one loop. verl's trainer does not use `trace`."""
        if agent_name != NAME:
            return await super()._run_agent_loop(
                sampling_params, trajectory, agent_name=agent_name, trace=trace, **fields
            )
        output = await copy(self._loop).run(sampling_params, **fields)
        return await self._agent_loop_postprocess(output, trajectory["validate"], **fields)

    async def _compute_score(self, outputs: list[AgentLoopOutput], kwargs: dict) -> None:
        """As in verl, but from the answer's tokens only. verl also computes position ids, which no reward reads."""
        if len(outputs) != 1 or outputs[0].reward_score is not None or self.reward_loop_worker_handles is None:
            return await super()._compute_score(outputs, kwargs)
        output, timing = outputs[0], {}
        with simple_timer("compute_score", timing):
            worker = random.choice(self.reward_loop_worker_handles)
            result = await worker.compute_score.remote(reward_input(output, kwargs))
        output.reward_score = result["reward_score"]
        output.extra_fields["reward_extra_info"] = result["reward_extra_info"]
        output.metrics.compute_score = timing["compute_score"]

    def _compute_multi_modal_inputs(self, output: AgentLoopOutput, input_ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """As in verl, but once per prompt: all answers to it have the same image inputs."""
        verls, media = super()._compute_multi_modal_inputs, output.multi_modal_data or {}
        if media.keys() != {"images"}:
            return verls(output, input_ids)
        prompts = find_family({"model_type": self.hf_model_type}).prompts

        def compute() -> dict[str, torch.Tensor]:
            own = prompts.image_inputs(self.processor, media["images"], output.mm_processor_kwargs or {})
            return verls(output, input_ids) if own is None else own

        return dict(self._image_inputs.get(media["images"], compute))


def reward_input(output: AgentLoopOutput, fields: Mapping[str, Any]) -> DataProto:
    """One row for verl's reward managers: prompt and answer, (1, tokens), and the sample's fields."""
    ids = output.response_ids or [0]  # verl's NumPy serialization has no empty tensors
    mask = [1] * len(output.prompt_ids) + [int(bool(output.response_ids))] * len(ids)
    columns = {"prompts": output.prompt_ids, "responses": ids, "input_ids": output.prompt_ids + ids}
    tensors = {name: torch.tensor([row]) for name, row in (columns | {"attention_mask": mask}).items()}
    objects = fields | {
        "__num_turns__": output.num_turns,
        "tool_extra_fields": output.extra_fields,
        "prompt_len": len(output.prompt_ids),
        "response_len": len(output.response_ids),
    }
    return DataProto(TensorDict(tensors, batch_size=1), {name: column_of(value) for name, value in objects.items()})


def column_of(value: Any) -> np.ndarray:
    """An object column with this one value; NumPy would unpack lists and arrays."""
    column = np.empty(1, dtype=object)
    column[0] = value
    return column


class GroupManager(AgentLoopManagerTQ):
    """verl's manager with our workers; selected with `rollout.agent.agent_loop_manager_class`."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.agent_loop_workers_class = ray.remote(GroupWorker)
