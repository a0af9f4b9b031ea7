"""Tests with a real vLLM server, started once: log-probabilities, resumed evaluations, and clean shutdown."""

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from itertools import product
from pathlib import Path

import httpx
import psutil
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, Qwen3VLForConditionalGeneration

from qwen3vl_rl.data.pictures import picture_url
from qwen3vl_rl.data.predictions import Question, read_predictions
from qwen3vl_rl.data.samples import Sample
from qwen3vl_rl.errors import InputError
from qwen3vl_rl.evaluation.run import Load, Run
from qwen3vl_rl.evaluation.serving.engines import VLLM
from qwen3vl_rl.evaluation.serving.predict import FORCED_ANSWER, Target, predict, warm_up
from qwen3vl_rl.evaluation.serving.questions import read_questions
from qwen3vl_rl.evaluation.serving.server import Endpoint, EngineError, Server, Servers
from qwen3vl_rl.evaluation.serving.settings import load_settings
from qwen3vl_rl.grounding import render_prompt

LOG_PROB_TOLERANCE = 1e-4  # fp32 on both sides; they differ by about 1e-6
MAX_TOKENS = 40

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def server(checkpoints, world, tmp_path_factory):
    log = tmp_path_factory.mktemp("server") / "server.log"
    with Server(VLLM, log, world / "images", load_settings(max_tokens=MAX_TOKENS)) as server:
        server.load(str(checkpoints[0]))
        yield server


@pytest.fixture
def questions(world):
    return read_questions([world / "eval"], world / "images")


def _served_log_probs(url, model, image, prompt):
    """(prompt token ids, generated ids, their log-probs) of a greedy answer."""
    content = [{"type": "image_url", "image_url": {"url": picture_url(image, by_path=True)}}]
    content.append({"type": "text", "text": prompt})
    request = {"model": model, "messages": [{"role": "user", "content": content}], "temperature": 0, "max_tokens": 12}
    extra = {"logprobs": True, "top_logprobs": 1, "return_token_ids": True}
    reply = httpx.post(f"{url}/v1/chat/completions", json=request | extra, timeout=None, trust_env=False).json()
    choice = reply["choices"][0]
    return reply["prompt_token_ids"], choice["token_ids"], [t["logprob"] for t in choice["logprobs"]["content"]]


def _reference_log_probs(checkpoint, image, prompt, generated):
    """(prompt token ids, log-probs of the generated ids) by transformers."""
    processor = AutoProcessor.from_pretrained(checkpoint)
    model = Qwen3VLForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32).eval()
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt}]}]
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    inputs = processor(text=[text], images=[Image.open(image)], return_tensors="pt")
    count, answer = inputs.input_ids.shape[1], torch.tensor([generated])
    inputs["input_ids"] = torch.cat([inputs.input_ids, answer], dim=1)
    inputs["attention_mask"] = torch.ones_like(inputs.input_ids)
    inputs["mm_token_type_ids"] = torch.cat([inputs.mm_token_type_ids, torch.zeros_like(answer)], dim=1)
    with torch.no_grad():
        log_probs = model(**inputs).logits.log_softmax(-1)[0, count - 1 : -1]
    return inputs.input_ids[0, :count].tolist(), log_probs.gather(1, answer[0, :, None])[:, 0]


def test_log_probs_equal_transformers_for_every_checkpoint_that_is_swapped_in(server, checkpoints, world, questions):
    url, totals, ends = server.url, {}, (questions[0], questions[-1])
    for checkpoint in (checkpoints[0], checkpoints[1], checkpoints[0]):
        model = server.load(str(checkpoint))
        assert server.url == url  # swapped, not restarted
        for question in ends:
            image = world / "images" / question.sample.image
            prompt = render_prompt(question.sample.prompt_name, question.sample.sent)
            prompt_ids, generated, served = _served_log_probs(url, model, image, prompt)
            reference_ids, reference = _reference_log_probs(checkpoint, image, prompt, generated)
            assert prompt_ids == reference_ids
            torch.testing.assert_close(torch.tensor(served), reference, atol=LOG_PROB_TOLERANCE, rtol=0)
            totals.setdefault((checkpoint, question.key), sum(served))
    # Image and weights change the sums by far more than the tolerance; after training, the image may not.
    start, trained = ([totals[checkpoint, question.key] for question in ends] for checkpoint in checkpoints)
    assert all(abs(a - b) > 10 * LOG_PROB_TOLERANCE for a, b in (start, *product(start, trained)))


STORED = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}


@pytest.mark.parametrize("orientation", STORED)
def test_a_picture_that_its_exif_turns_is_seen_as_the_upright_one(server, checkpoints, world, orientation):
    model, folder = server.load(str(checkpoints[0])), world / "images"
    upright, turned, unturned = (folder / f"{name}{orientation}.png" for name in ("upright", "turned", "unturned"))
    picture, exif = Image.radial_gradient("L").resize((160, 128)).convert("RGB"), Image.Exif()
    picture.paste("red", (0, 0, 80, 32))
    exif[0x112] = orientation
    picture.save(upright)
    picture.transpose(STORED[orientation]).save(turned, exif=exif)
    picture.transpose(STORED[orientation]).save(unturned)
    seen = {file: _served_log_probs(server.url, model, file, "Where?") for file in (upright, turned, unturned)}
    assert seen[upright][:2] == seen[turned][:2]
    assert seen[turned][2] == pytest.approx(seen[upright][2], abs=LOG_PROB_TOLERANCE)
    assert abs(sum(seen[unturned][2]) - sum(seen[upright][2])) > 10 * LOG_PROB_TOLERANCE


def _start_evaluation(server, world, out):
    command = [sys.executable, "-m", "qwen3vl_rl.evaluation", "--endpoint", server.url, "--model", "tiny=evaluated"]
    command += ["--data", world / "eval", "--images", world / "images", "--out", out]
    command += ["--max-tokens", MAX_TOKENS, "--concurrency", 1, "--latency-samples", 2]
    return subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _kill_at(process, predictions, rows):
    while process.poll() is None and _count_rows(predictions) < rows:
        time.sleep(0.01)
    process.kill()
    process.communicate()


def _count_rows(predictions):
    return predictions.read_bytes().count(b"\n") if predictions.exists() else 0


def test_killed_evaluations_resume_and_equal_an_uninterrupted_one(server, checkpoints, world, questions, tmp_path):
    server.load(str(checkpoints[0]))
    whole = _start_evaluation(server, world, tmp_path / "whole")
    output, _ = whole.communicate()
    assert whole.returncode == 0, output
    assert "average" in output and (tmp_path / "whole" / "report.html").is_file()

    killed = tmp_path / "killed" / "tiny" / "predictions.jsonl"
    for rows in (1, 7, 15):
        _kill_at(_start_evaluation(server, world, tmp_path / "killed"), killed, rows)
        earlier = killed.read_bytes()
        assert rows <= earlier.count(b"\n") < len(questions)
        with killed.open("a") as file:  # as if the process was killed while it wrote a row
            file.write('{"key": "refsh')
    last = _start_evaluation(server, world, tmp_path / "killed")
    output, _ = last.communicate()
    assert last.returncode == 0 and "Resumed" in output, output
    assert killed.read_bytes().startswith(earlier)

    texts = [
        [(row.key, row.text, row.tokens) for row in read_predictions(tmp_path / run / "tiny" / "predictions.jsonl")]
        for run in ("whole", "killed")
    ]
    assert texts[0] == texts[1]
    assert sorted(row[0] for row in texts[0]) == sorted(question.key for question in questions)
    summaries = [(tmp_path / run / "tiny" / "summary.json").read_bytes() for run in ("whole", "killed")]
    assert summaries[0] == summaries[1]


def test_a_request_that_fails_for_good_becomes_a_wrong_row(server, world, questions):
    (world / "images" / "broken.png").write_text("no picture")
    good, broken = questions[0], Question("s/1", "s", Sample("s", "broken.png", 160, 128, "the star", (0, 0, 9, 9)))
    rows = {}
    _predict(server, world, [broken, good], load_settings(max_tokens=MAX_TOKENS), rows)
    assert rows[good.key].error is None and rows[good.key].tokens == MAX_TOKENS
    assert "readable image" in rows["s/1"].error and (rows["s/1"].iou, rows["s/1"].pred_xyxy_px) == (0.0, None)


def test_an_evaluation_whose_every_request_is_refused_writes_no_row(server, world, questions):
    rows = {}
    with pytest.raises(EngineError, match=r"refused the first requests.*HTTP 400"):
        _predict(server, world, questions, load_settings(max_tokens=10**6), rows)
    assert rows == {}


FAULTS = ("429", "500", "garbage", "shape", "reset", "stall")


def _complete_through(proxy, world, questions, folder):
    """Run an evaluation through `proxy` and return its summary."""
    run = Run(folder, "evaluated", questions, load_settings(max_tokens=MAX_TOKENS), Endpoint(proxy.url))
    run.complete(world / "images", Load(concurrency=8, timeout_s=30))
    return json.loads((folder / "summary.json").read_text())


@pytest.mark.long
def test_network_faults_cost_no_sample(server, fault_proxy, world, questions, tmp_path, monkeypatch):
    monkeypatch.setattr("qwen3vl_rl.data.openai_client.FIRST_WAIT_S", 0.02)
    with fault_proxy(server.url, lambda n, _: None if n % 3 else FAULTS[n // 3 % len(FAULTS)]) as proxy:
        summary = _complete_through(proxy, world, questions, tmp_path)
    assert set(proxy.outcomes) == {None, *FAULTS}
    rows = read_predictions(tmp_path / "predictions.jsonl")
    assert [row.key for row in rows] == sorted(question.key for question in questions)
    assert [row.error for row in rows] == [None] * len(questions) and summary["failed"] == {}
    assert {row.tokens for row in rows} == {MAX_TOKENS}


def test_requests_that_never_succeed_are_listed_and_counted(
    server, fault_proxy, world, questions, tmp_path, monkeypatch
):
    monkeypatch.setattr("qwen3vl_rl.data.openai_client.FIRST_WAIT_S", 0.01)
    bad = questions[7].sample.sent
    with fault_proxy(server.url, lambda _, request: "500" if f"Locate {bad}" in request else None) as proxy:
        summary = _complete_through(proxy, world, questions, tmp_path)
    failed = {question.key for question in questions if question.sample.sent == bad}
    assert set(summary["failed"]) == failed
    assert all(text == "HTTP 500: , 6 attempts" for text in summary["failed"].values())
    counts = [(split["samples"], split["failed_requests"]) for split in summary["splits"].values()]
    assert (sum(samples for samples, _ in counts), sum(lost for _, lost in counts)) == (len(questions), len(failed))


def test_failed_requests_are_retried_and_lost_timing_is_measured_again(server, fault_proxy, world, questions, tmp_path):
    """Answered rows stay byte-identical."""
    bad, broken = questions[7].sample.sent, [True]
    folder, rows = tmp_path / "run", lambda: (tmp_path / "run" / "predictions.jsonl").read_text().splitlines()
    plan = lambda _, request: "400" if broken[0] and f"Locate {bad}" in request else None  # noqa: E731
    with fault_proxy(server.url, plan) as proxy:

        def complete(**load):
            settings = load_settings(max_tokens=MAX_TOKENS)
            run = Run(folder, "evaluated", questions, settings, Endpoint(proxy.url))
            run.complete(world / "images", Load(concurrency=8, **load))
            return json.loads((folder / "timing.json").read_text())

        complete()
        answered = [row for row in rows() if not json.loads(row)["error"]]
        broken[0] = False
        complete()
        assert len(answered) < len(rows()) == len(questions), "retried only on request"
        complete(retry_failed=True)
        assert set(answered) < set(rows()) and not any(json.loads(row)["error"] for row in rows())
        (folder / "timing.json").unlink()  # as if killed after the last answer and before writing timing.json
        whole = rows()
        timing = complete(latency_samples=2)
    assert timing["single_request_latency"]["requests"] == 2 and timing["resumed"] and "requests_per_s" not in timing
    assert rows() == whole


def test_the_forced_answer_continues_exactly_the_generated_text(server, checkpoints, world, questions):
    """The second prompt is the first one, `<think>`, the reasoning up to its budget and the start of the answer."""
    server.load(str(checkpoints[0]))
    tokenizer = AutoProcessor.from_pretrained(checkpoints[0]).tokenizer
    settings = load_settings(max_tokens=MAX_TOKENS, reasoning_tokens=6)
    rows = {}
    _predict(server, world, questions[:1], settings, rows)
    (row,) = rows.values()
    begun = row.text.partition(FORCED_ANSWER)[0]
    image = {"type": "image_url", "image_url": {"url": (world / "images" / row.image).as_uri()}}
    ask = {"role": "user", "content": [image, {"type": "text", "text": render_prompt("qwen3_amodal", row.sent)}]}
    turns = [ask, {"role": "assistant", "content": begun + FORCED_ANSWER}]
    request = {"model": "evaluated", "messages": turns, "temperature": 0, "max_tokens": 2, "return_token_ids": True}
    request |= {"add_generation_prompt": False, "continue_final_message": True}
    reply = httpx.post(f"{server.url}/v1/chat/completions", json=request, timeout=None, trust_env=False).json()
    expected = f"<|im_start|>assistant\n<think>\n{begun}{FORCED_ANSWER}"
    assert tokenizer.decode(reply["prompt_token_ids"]).endswith(expected)
    assert row.tokens == MAX_TOKENS  # of both requests


def test_of_several_answers_one_is_scored_and_all_tokens_count(server, world, questions):
    settings = load_settings(max_tokens=MAX_TOKENS, answers=3, temperature=1.0)
    rows = {}
    _predict(server, world, questions[:2], settings, rows)
    assert [row.tokens for row in rows.values()] == [3 * MAX_TOKENS] * 2


def test_pixel_limits_reach_the_model(checkpoints):
    """Tested on the command only, because another server start would take 20 s."""
    settings = load_settings(min_pixels=1024, max_pixels=2048)
    command = VLLM.command(checkpoints[0], 100, Path("/images"), settings, 1)
    kwargs = json.loads(command[command.index("--mm-processor-kwargs") + 1])
    processor = AutoProcessor.from_pretrained(checkpoints[0]).image_processor
    grid = processor(images=[Image.new("RGB", (160, 128))], return_tensors="pt", **kwargs)["image_grid_thw"]
    assert 1024 <= int(grid.prod()) * processor.patch_size**2 <= 2048


def _predict(server, world, questions, settings, rows):
    target = Target(server.urls, "evaluated", world / "images", server.by_path, settings)
    warm_up(target, [questions[0], questions[-1]])
    predict(target, questions, 4, lambda row: rows.__setitem__(row.key, row))


def test_an_endpoint_must_serve_the_model_that_is_asked_for(server):
    assert Endpoint(f"{server.url}/v1/").load("evaluated") == "evaluated"
    with pytest.raises(InputError, match='expected a server of "another", it serves evaluated'):
        Endpoint(server.url).load("another")
    with pytest.raises(InputError, match="expected an OpenAI-compatible server"):
        Endpoint("http://127.0.0.1:9").load("evaluated")


@pytest.mark.long
def test_two_servers_on_one_device_share_the_questions(checkpoints, world, questions, server, tmp_path):
    """Each image belongs to one of them, and the answers are those of a single server."""
    settings = load_settings(max_tokens=MAX_TOKENS)
    alone: dict[str, str] = {}
    server.load(str(checkpoints[1]))
    one = Target(server.urls, "evaluated", world / "images", server.by_path, settings)
    predict(one, questions, 4, lambda row: alone.__setitem__(row.key, row.text))
    with Servers(2, VLLM, tmp_path / "server.log", world / "images", settings) as servers:
        servers.load(str(checkpoints[0]))
        servers.load(str(checkpoints[1]))  # swaps the weights of both
        together: dict[str, str] = {}
        both = Target(servers.urls, "evaluated", world / "images", servers.by_path, settings)
        predict(both, questions, 4, lambda row: together.__setitem__(row.key, row.text))
        assert together == alone
        asked = [finished_requests(url) for url in servers.urls]
        assert min(asked) > 0 and sum(asked) == len(questions)
        assert (tmp_path / "server-2.log").exists()


def finished_requests(url: str) -> float:
    lines = httpx.get(f"{url}/metrics", trust_env=False).text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("vllm:request_success_total"))


@pytest.mark.long
def test_a_server_that_dies_while_starting_shows_its_log(checkpoints, world, tmp_path):
    with (
        pytest.raises(EngineError, match=r"(?s)exited with code 2 while starting.*server\.log.*no-such-option"),
        Server(
            VLLM, tmp_path / "server.log", world / "images", load_settings(max_tokens=9), ["--no-such-option"]
        ) as server,
    ):
        with pytest.raises(EngineError):
            server.load(str(checkpoints[0]))
        server.load(str(checkpoints[0]))  # starts again, and fails again


def test_stopping_ends_the_servers_processes_and_no_others(server):
    """Must be the last test in this file, because it stops the shared server."""
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
    group = server._process.pid
    assert len(_members(group)) > 1
    server.stop()
    while _members(group):  # killed processes take a moment to disappear
        time.sleep(0.1)
    assert bystander.poll() is None
    bystander.kill()
    bystander.wait()


def _members(group):
    """The living processes of a process group, without zombies."""
    members = []
    for process in psutil.process_iter(["status"]):
        with suppress(ProcessLookupError):
            if process.info["status"] != psutil.STATUS_ZOMBIE and os.getpgid(process.pid) == group:
                members.append(process.pid)
    return members
