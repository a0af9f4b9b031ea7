"""A shared request gets all answers from one call of the engine; other requests are unchanged."""

import asyncio
from copy import copy
from types import SimpleNamespace

import pytest
from verl.workers.rollout.replica import TokenOutput

from qwen3vl_rl.verl_ext.agent_loop import ANSWERS
from qwen3vl_rl.verl_ext.shared_request import AnswersSharedRequests

pytestmark = pytest.mark.slow


class Server:
    """Replaces verl's two servers, whose `generate` reads the first output of the engine's last result."""

    def __init__(self):
        self.asked, self.engine = [], SimpleNamespace(generate=self._stream)

    async def _stream(self, request_id: str, count: int):
        self.asked.append(request_id)
        for length in (1, 2):
            await asyncio.sleep(0)
            yield [[number] * length for number in range(count)]

    async def generate(self, prompt_ids, sampling_params, request_id, image_data=None) -> TokenOutput:
        count = sampling_params.pop("n", 1)
        async for result in self.engine.generate(request_id, count):
            last = result
        return TokenOutput(token_ids=last[0], extra_fields={"image": image_data})


class Sharing(AnswersSharedRequests, Server):
    def __init__(self):
        super().__init__()
        stream = self.engine.generate

        def generate_next(request_id: str, count: int):
            return self.take_turns(request_id, stream(request_id, count), lambda last: [[copy(one)] for one in last])

        self.engine.generate = generate_next


def test_the_engine_is_called_once_for_all_answers():
    server = Sharing()

    async def ask():
        shared = (server.generate([1], {"n": 3}, name, image_data=name) for name in ("a", "b"))
        return await asyncio.gather(*shared, server.generate([1], {}, "c"))

    *shared, alone = asyncio.run(ask())
    assert sorted(server.asked) == ["a", "b", "c"]
    for found in shared:
        assert [answer.token_ids for answer in found.extra_fields[ANSWERS]] == [[0, 0], [1, 1], [2, 2]]
    assert [found.extra_fields["image"] for found in shared] == ["a", "b"]
    assert (alone.token_ids, ANSWERS in alone.extra_fields) == ([0, 0], False)
    assert server._answers == {}


def test_a_request_for_one_answer_is_sent_without_n():
    server = Sharing()
    found = asyncio.run(server.generate([1], {"n": 1}, "a"))
    assert [answer.token_ids for answer in found.extra_fields[ANSWERS]] == [[0, 0]]


def test_a_failed_request_is_removed():
    server = Sharing()
    server.engine.generate = lambda *_: (_ for _ in ()).throw(OSError("the engine died"))
    with pytest.raises(OSError, match="the engine died"):
        asyncio.run(server.generate([1], {"n": 3}, "a"))
    assert server._answers == {}
