"""Requests of the client, tested without a model server."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from qwen3vl_rl.data.predictions import Prediction, Question
from qwen3vl_rl.data.samples import Sample
from qwen3vl_rl.evaluation.serving.predict import FORCED_ANSWER, Target, answer_now, predict
from qwen3vl_rl.evaluation.serving.server import Endpoint, EngineError
from qwen3vl_rl.evaluation.serving.settings import Settings, load_settings
from qwen3vl_rl.grounding import parse_box_1000

PIECES = st.lists(st.sampled_from(["one star", "\n", " ", "</think>", "```json", "[", "\t", "é"]), max_size=12)


@pytest.fixture(scope="module")
def tokenizer(starter):
    return AutoTokenizer.from_pretrained(starter)


@given(PIECES.map("".join))
def test_a_cut_off_generation_is_continued_unchanged(tokenizer, text):
    turns = [{"role": "user", "content": "Locate it"}, {"role": "assistant", "content": answer_now(text)}]
    prompt = tokenizer.apply_chat_template(turns, tokenize=False, continue_final_message=True)
    assert prompt.endswith(f"<|im_start|>assistant\n<think>\n{answer_now(text)}")


@pytest.mark.parametrize("text", ["", "one star", "one star\n", "one star</think>", "one star\n</think>\n\n"])
def test_the_answer_begins_after_the_reasoning(text):
    begun = answer_now(text)
    assert begun == text.partition("</think>")[0].strip() + FORCED_ANSWER
    assert parse_box_1000(begun + '1, 2, 300, 400], "label": "it"}]') == (1, 2, 300, 400)


def test_an_answer_that_had_begun_is_continued():
    begun = answer_now('one star\n</think>\n\n```json\n[\n\t{"bbox_2d": [1, 2, 3')
    assert begun.endswith('</think>\n\n```json\n[\n\t{"bbox_2d": [1, 2, 3')


class _Recorder(BaseHTTPRequestHandler):
    """Records (path, request) and returns as many cut-off answers as requested.

    Requests fail if `failing`; token counts are omitted unless `counts`. Only `/gateway/v1/models` lists models.
    """

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append((self.path, request))
        if self.server.failing:
            return self.send_error(503)
        choices = [{"message": {"content": "a star"}, "finish_reason": self.server.ending}] * request.get("n", 1)
        self._reply({"choices": choices, "usage": {"completion_tokens": len(choices)} if self.server.counts else None})

    def do_GET(self) -> None:
        self._reply({}) if self.path == "/gateway/v1/models" else self.send_error(404)

    def _reply(self, content: dict) -> None:
        reply = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *_) -> None:
        """Print nothing."""


@pytest.fixture
def recorder():
    with ThreadingHTTPServer(("127.0.0.1", 0), _Recorder) as server:
        server.requests, server.failing, server.counts, server.ending = [], False, True, "length"
        thread = Thread(target=server.serve_forever, args=[0.01])  # s until it notices its end
        thread.start()
        yield server
        server.shutdown()
        thread.join()


PICTURES = Path(__file__).parents[3] / "images"
QUESTION = Question("s/1", "s", Sample("1", "teaser.png", 160, 128, "the star", (0, 0, 9, 9)))


def _ask(recorder: ThreadingHTTPServer, settings: Settings, prefix: str = "") -> tuple[list[dict], list[Prediction]]:
    """(requests, predictions) for one question."""
    rows: list[Prediction] = []
    urls = Endpoint(f"http://127.0.0.1:{recorder.server_port}{prefix}/v1").urls
    target = Target(urls, "tiny", PICTURES, by_path=True, settings=settings)
    predict(target, [QUESTION], 1, rows.append)
    return [request for _, request in recorder.requests], rows


@pytest.mark.parametrize("budget", [0, 5])
def test_continued_answers_have_their_own_seeds(recorder, budget):
    asked, rows = _ask(recorder, load_settings(answers=3, reasoning_tokens=budget, temperature=1.0, max_tokens=9))
    seeds = [request["seed"] for request in asked if "continue_final_message" in request]
    first = load_settings(temperature=1.0).sampling(QUESTION.key)["seed"]
    assert sorted(seeds) == [first, first + 1, first + 2]  # the seeds that vLLM uses for `n` answers to one request
    assert len(asked) == 3 + (budget > 0) and rows[0].error is None


def test_a_greedy_answer_is_continued_without_a_seed(recorder):
    asked, _ = _ask(recorder, load_settings(reasoning_tokens=5, max_tokens=9))
    assert len(asked) == 2 and not any("seed" in request for request in asked)


def test_a_server_behind_a_path_is_asked_there(recorder, monkeypatch):
    _, rows = _ask(recorder, load_settings(max_tokens=9), "/gateway")
    assert [path for path, _ in recorder.requests] == ["/gateway/v1/chat/completions"] and rows[0].text == "a star"
    monkeypatch.setattr("qwen3vl_rl.data.openai_client.FIRST_WAIT_S", 0.001)
    recorder.failing = True
    _, rows = _ask(recorder, load_settings(max_tokens=9), "/gateway")  # no EngineError, because the server is reachable
    assert rows[0].error.startswith("HTTP 503")


def test_a_server_that_is_gone_ends_the_evaluation(recorder, monkeypatch):
    monkeypatch.setattr("qwen3vl_rl.data.openai_client.FIRST_WAIT_S", 0.001)
    recorder.failing = True
    with pytest.raises(EngineError, match="the server stopped answering \\(HTTP 503"):
        _ask(recorder, load_settings(max_tokens=9))
    assert len(recorder.requests) == 6


def test_an_answer_whose_tokens_are_not_counted_is_an_error(recorder):
    recorder.counts = False
    _, rows = _ask(recorder, load_settings(max_tokens=9))
    assert len(recorder.requests) == 1 and "usage.completion_tokens" in rows[0].error


@pytest.mark.parametrize("ending", ["abort", "content_filter"])
def test_an_answer_that_the_server_ended_itself_is_an_error_and_not_a_wrong_box(recorder, ending):
    recorder.ending = ending
    _, rows = _ask(recorder, load_settings(max_tokens=9))
    assert rows[0].error == f"the endpoint ended the answer itself ({ending})"
