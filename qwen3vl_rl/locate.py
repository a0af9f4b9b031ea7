"""Where is it? Ask a served model about one image; print its reasoning and its box, and draw the box.

    bash scripts/serve.sh MODEL                             in another terminal
    python -m qwen3vl_rl.locate photo.jpg "the red cup"     writes photo.located.png

Exit code 1: the answer holds no box.
"""

import argparse
import sys
from pathlib import Path

from PIL import Image, ImageDraw

from qwen3vl_rl.data.openai_client import RequestFailed
from qwen3vl_rl.data.pictures import PictureError, open_picture
from qwen3vl_rl.data.predictions import Prediction, Question, score
from qwen3vl_rl.data.sample_card import reasoning_and_answer
from qwen3vl_rl.data.samples import Sample
from qwen3vl_rl.errors import InputError
from qwen3vl_rl.evaluation import command
from qwen3vl_rl.evaluation.serving.predict import Target, complete
from qwen3vl_rl.evaluation.serving.server import Endpoint, EngineError, served_models
from qwen3vl_rl.evaluation.serving.settings import PARSERS, load_settings
from qwen3vl_rl.grounding import Box

COLOR, LINE_PX = "#d9302c", 3
LONGEST = 2048  # tokens of an answer in stage 2 of the released recipe
SHOWN_CHARACTERS = 2000  # of reasoning and of an answer; those that fill the token limit are longer
NO_BOX = 1  # exit code


def ask(url: str, model: str | None, image: Path, sent: str, *, amodal: bool, max_tokens: int) -> Prediction:
    """The model's answer. Raises InputError for an unreadable image or a server of another kind, and EngineError."""
    try:
        picture = open_picture(image)
    except (OSError, PictureError) as error:
        raise InputError(f"{image}: expected a picture ({error})") from None
    settings = load_settings(prompt="qwen3_amodal" if amodal else None)
    endpoint = Endpoint(url)
    target = Target(endpoint.urls, chosen_model(endpoint, model), image.parent, endpoint.by_path, settings)
    question = Question("located/000001", "located", Sample("1", image.name, *picture.size, sent, None))
    try:
        (completion,) = complete(target, [question], max_tokens=max_tokens)
    except RequestFailed as failure:
        raise EngineError(str(failure)) from None
    (choice,) = completion.choices
    return score(
        question,
        choice.text,
        parser=PARSERS[settings.parser],
        tokens=completion.output_tokens,
        latency_s=completion.latency_s,
        finish_reason=choice.finish_reason,
    )


def chosen_model(endpoint: Endpoint, model: str | None) -> str:
    """`model`, or else the server's only model. Raises InputError if the server has several."""
    if model:
        return endpoint.load(model)
    served = served_models(endpoint.url)
    if len(served) != 1:
        raise InputError(f"--model: expected one of {', '.join(served)}")
    return served[0]


def shortened(text: str) -> str:
    """`text` without the middle if it is long."""
    half, left_out = SHOWN_CHARACTERS // 2, len(text) - SHOWN_CHARACTERS
    return f"{text[:half]} … {left_out:,} characters left out … {text[-half:]}" if left_out > 0 else text


def draw(image: Path, xyxy_px: Box, out: Path) -> None:
    picture: Image.Image = open_picture(image)
    ImageDraw.Draw(picture).rectangle(xyxy_px, outline=COLOR, width=LINE_PX)
    picture.save(out)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m qwen3vl_rl.locate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("image", type=Path, metavar="IMAGE")
    parser.add_argument("sent", metavar="EXPRESSION", help='such as "the second cup from the left"')
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="of the server (default: http://127.0.0.1:8000)")
    parser.add_argument("--model", help="its name on the server, if there are several")
    parser.add_argument("--amodal", action="store_true", help="ask for the whole object if a part of it is hidden")
    parser.add_argument("--max-tokens", type=int, default=LONGEST, help=f"of reasoning and answer (default: {LONGEST})")
    parser.add_argument("--out", type=Path, help="the image with the box (default: IMAGE.located.png)")
    args = parser.parse_args()
    out = args.out or args.image.with_suffix(".located.png")
    answer = ask(args.url, args.model, args.image, args.sent, amodal=args.amodal, max_tokens=args.max_tokens)
    reasoning, written = reasoning_and_answer(answer.text)
    print(f"reasoning: {shortened(reasoning) or 'none'}")
    if answer.pred_xyxy_px is None:
        print(f"no box in the answer: {shortened(written)}")
        sys.exit(NO_BOX)
    draw(args.image, answer.pred_xyxy_px, out)
    box = ", ".join(f"{value:g}" for value in answer.pred_xyxy_px)
    print(
        f"box: {box} (xyxy in px of {answer.width}x{answer.height}), {answer.tokens} tokens, {answer.latency_s:.2f} s"
    )
    print(f"drawn: {out}")


if __name__ == "__main__":
    command.run(main)
