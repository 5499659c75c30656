"""A comparison whose reader and judge are an endpoint: real server, its faults, its absence."""

import shutil

import pytest
from compare_cases import SETTINGS, install, make_root, never
from protocol_cases import serving

from memo_dist.compare.comparing import compare_methods, make_plan
from memo_dist.compare.judge import Share
from memo_dist.compare.method import Cost, Reply
from memo_dist.compare.output import as_json
from memo_dist.compare.task import run_task
from memo_dist.compare.text import comparison_text, judge_lines
from memo_dist.config import load_config
from memo_dist.evaluation.questions import load_questions
from memo_dist.io.runfolder import RunFolder
from memo_dist.testing.faults import FaultPlan
from memo_dist.testing.server import Behaviour

DEAD = "http://127.0.0.1:9/v1"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_root(tmp_path_factory.mktemp("compare"))


@pytest.fixture
def root(made, tmp_path):
    shutil.copytree(made, tmp_path / "it")
    return tmp_path / "it"


def plan_with(root, url, methods, reader, *settings):
    values = ["executive.kind=openai", "executive.model=big", f"executive.urls=[{url}]"]
    values += ["executive.patience=1", "executive.retries=0", "executive.attempts=1"]
    config = load_config((), [*SETTINGS, *values, *settings])
    run, questions = RunFolder(root / "run"), load_questions(root / "questions.jsonl")
    reader = reader or str(root / "models" / "shard-0")
    return make_plan(run, config, questions, "e", methods, {}, reader)


def test_an_endpoint_reads_for_all_methods_and_its_tokens_are_billed(root, tmp_path):
    prices = tmp_path / "prices.yaml"
    prices.write_text(
        "models: {big: {prompt: 2, completion: 4, context: 9000}}\nmachines: {cpu: {per_hour: 1}}\n"
    )
    with serving(Behaviour()) as url:
        plan = plan_with(
            root, url, ["closed_book", "bm25"], "executive", f"compare.prices={prices}"
        )
        result = compare_methods(plan, never, run_task)
    closed, found = result.rows
    assert (closed.state, found.state) == ("done", "done"), comparison_text(result)
    assert found.tokens_in > closed.tokens_in > 0
    billed = result.answered["bm25"].replies
    assert sum(reply.tokens_priced_in for reply in billed) == found.tokens_in * found.n
    assert found.money == pytest.approx(1000 * (2 * found.tokens_in + 4 * found.tokens_out) / 1e6)
    # Finished: nothing is sent again, so a dead server does no harm.
    again = compare_methods(
        plan_with(root, DEAD, ["closed_book", "bm25"], "executive", f"compare.prices={prices}"),
        never,
        run_task,
    )
    assert [row.right for row in again.rows] == [row.right for row in result.rows]


def test_a_server_that_is_down_is_a_failed_row(root):
    result = compare_methods(
        plan_with(root, DEAD, ["closed_book", "memory"], "executive"), never, run_task
    )
    closed, memory = result.rows
    assert (closed.state, closed.n, closed.right) == ("failed", 0, None)
    assert "no answer from any of 1 endpoints" in closed.reason
    assert (memory.state, memory.right) == ("done", 1.0)


def _answering(setting):
    class Wrong:
        identity = "wrong"

        def prepare(self, corpus):
            return Cost()

        def answer(self, questions):
            return [Reply("nonsense") for _ in questions]

    return Wrong()


def test_the_judges_own_errors_stand_beside_its_verdicts(root, monkeypatch):
    install(monkeypatch, wrong=_answering)
    faults = FaultPlan.parse(["malformed=0.4"])
    with serving(Behaviour(faults=faults)) as url:
        plan = plan_with(root, url, ["wrong", "memory"], "", "compare.judge=executive")
        result = compare_methods(plan, never, run_task)
    found = result.judgement
    planted = [found.false_accepts, found.true_accepts]
    assert [share.n + share.missing for share in planted] == [3, 3]
    assert sum(share.missing for share in [*planted, *found.methods.values()]) > 0
    assert all(share.n + share.missing == 3 for share in found.methods.values())
    assert "planted wrong answers" in judge_lines(result)[0]
    told = as_json(result)["judge"]
    assert told["false_accepts"]["n"] == found.false_accepts.n
    assert result.rows[0].right == 0.0, "exact metrics do not use the judge"


def test_a_judge_that_is_down_costs_no_table(root):
    plan = plan_with(root, DEAD, ["memory"], "", "compare.judge=executive")
    result = compare_methods(plan, never, run_task)
    assert result.judgement is None
    assert result.rows[0].right == 1.0
    assert "The judge gave no verdicts" in comparison_text(result)
    assert Share(0, 0, 2).value is None
