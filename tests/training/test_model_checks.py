"""Models that no result could be trusted of are refused in one line, by a run's loading and by doctor's."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertLMHeadModel,
    BlipConfig,
    BlipForConditionalGeneration,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    T5Config,
    XLNetConfig,
    XLNetLMHeadModel,
)

from gallop_ray.cli import main
from gallop_ray.preflight import sweep_checks
from gallop_ray.spec.data import ModelSpec
from gallop_ray.spec.machine import DeepspeedSpec
from gallop_ray.spec.schema import Sweep
from gallop_ray.tasks.examples import Example, TaskData
from gallop_ray.training import models
from gallop_ray.training.engine import refuse_extra
from gallop_ray.training.model_checks import position_limit, refuse_positions
from gallop_ray.training.models import load_model, meta_model, try_model
from gallop_ray.training.pocket import pocket_tokenizer
from gallop_ray.training.resident import LoadedModel, _refuse_unfit
from tests.training.tiny import of_pocket_vocabulary, sweep

QUICKSTART = str(Path(__file__).parents[2] / "sweeps/quickstart.yaml")

SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


def saved(folder: Path, model: torch.nn.Module) -> Path:
    model.save_pretrained(folder)
    pocket_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("models") / "whole", of_pocket_vocabulary()[0])


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A whole model to break."""
    return Path(shutil.copytree(whole, tmp_path / "model"))


def ids() -> dict[str, int]:
    return {"vocab_size": len(pocket_tokenizer()), "eos_token_id": 0, "pad_token_id": 1}


def refusals(folder: Path, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """What loading says, whole and, as of a large model, by its headers."""
    said = set()
    for whole_up_to in (models._TRIED_WHOLE, 0):
        monkeypatch.setattr(models, "_TRIED_WHOLE", whole_up_to)
        for load in (load_model, try_model):
            with pytest.raises(ValueError, match="cannot load model") as refused:
                load(ModelSpec(name=str(folder)))
            said.add(str(refused.value))
    return said


@pytest.mark.parametrize("lost", ["model.layers.1.mlp.down_proj.weight", "lm_head.weight"])
def test_weights_that_would_be_drawn_at_random_are_named(folder, monkeypatch, lost):
    weights = load_file(folder / "model.safetensors")
    del weights[lost]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (said,) = refusals(folder, monkeypatch)
    assert f"the checkpoint lacks {lost}, which would be drawn at random; take the complete checkpoint" in said


def test_weights_of_other_sizes_are_named_with_both(folder, monkeypatch):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 341}))
    (said,) = refusals(folder, monkeypatch)
    assert f"model.embed_tokens.weight (({ids()['vocab_size']}, 32) there, (341, 32) by config.json)" in said


def test_an_expert_that_is_missing_is_refused(tmp_path, monkeypatch):
    folder = saved(
        tmp_path, MixtralForCausalLM(MixtralConfig(**SMALL, **ids(), num_local_experts=2, num_key_value_heads=2))
    )
    load_model(ModelSpec(name=str(folder)))
    weights = load_file(folder / "model.safetensors")
    del weights[next(name for name in weights if ".experts.1." in name)]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (said,) = refusals(folder, monkeypatch)
    assert "take the complete checkpoint" in said


def test_weights_that_are_not_numbers_are_named(folder):
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.down_proj.weight"][3, 4] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"hold NaN or infinity in model\.layers\.1\.mlp\.down_proj\.weight; take"):
        load_model(ModelSpec(name=str(folder)))


@pytest.mark.parametrize(
    "make",
    [
        lambda: BertLMHeadModel(BertConfig(**SMALL, **ids())),
        lambda: XLNetLMHeadModel(XLNetConfig(d_model=32, n_layer=2, n_head=2, d_inner=64, **ids())),
    ],
    ids=["bert", "xlnet"],
)
def test_what_reads_both_ways_is_no_decoder(tmp_path, make):
    torch.manual_seed(0)
    folder = saved(tmp_path, make())
    with pytest.raises(ValueError, match="it reads both ways: a token changes what is predicted before it"):
        load_model(ModelSpec(name=str(folder)))


@pytest.mark.parametrize(
    "make",
    [
        lambda: BertLMHeadModel(BertConfig(**SMALL, **ids(), is_decoder=True)),
        lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**SMALL, **ids())),
    ],
    ids=["bert as a decoder", "gpt_neox"],
)
def test_decoders_pass_whatever_they_are_called(tmp_path, make):
    load_model(ModelSpec(name=str(saved(tmp_path, make()))))


def test_other_kinds_are_refused_in_one_short_line(folder, monkeypatch):
    T5Config(d_model=32, num_layers=1).save_pretrained(folder)
    (said,) = refusals(folder, monkeypatch)
    assert "encoder-decoder" in said
    (folder / "config.json").write_text(json.dumps({"model_type": "vit"}))
    (said,) = refusals(folder, monkeypatch)
    assert "transformers has no causal language model of type vit; give a decoder" in said
    with pytest.raises(ValueError, match="no causal language model of type vit"):
        meta_model(ModelSpec(name=str(folder)))
    (folder / "config.json").write_text(json.dumps({"model_type": "no-such-thing"}))
    (said,) = refusals(folder, monkeypatch)
    assert "no-such-thing" in said
    assert len(said) < 600


def test_a_model_that_reads_no_text_without_images_is_refused(tmp_path):
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**sizes, **ids(), "encoder_hidden_size": 32, "max_position_embeddings": 64, "bos_token_id": 0}
    config = BlipConfig(text_config=text, vision_config={**sizes, "image_size": 16, "patch_size": 8})
    saved(tmp_path, BlipForConditionalGeneration(config))
    with pytest.raises(ValueError, match=r"it reads no text without images \(.*\); give a decoder"):
        load_model(ModelSpec(name=str(tmp_path)))


def test_code_that_comes_with_a_model_is_neither_run_nor_asked_about(folder, monkeypatch):
    code = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    (folder / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": code}))
    (folder / "own.py").write_text("raise SystemExit('run')")
    (said,) = refusals(folder, monkeypatch)
    assert "it comes with Python code of its own, which is not run; give a model whose class transformers has" in said


def test_a_padding_token_that_the_model_has_no_vector_for_gives_way_to_the_end(folder):
    tokenizer = pocket_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(folder)
    _, tokenizer = load_model(ModelSpec(name=str(folder)))
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    tokenizer.add_special_tokens({"eos_token": "[END]"})
    tokenizer.save_pretrained(folder)
    with pytest.raises(
        ValueError, match=r"end token \[END\] has id \d+, the model has \d+ embeddings; take the tokenizer"
    ):
        load_model(ModelSpec(name=str(folder)))


def test_positions_end_where_there_is_a_table_of_them():
    gpt2 = GPT2LMHeadModel(GPT2Config(n_positions=64, n_embd=32, n_layer=1, n_head=2))
    opt = OPTForCausalLM(
        OPTConfig(
            hidden_size=32,
            ffn_dim=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            word_embed_proj_dim=32,
            max_position_embeddings=48,
        )
    )
    bert = BertLMHeadModel(BertConfig(**SMALL, is_decoder=True, max_position_embeddings=40))
    assert [position_limit(each) for each in (gpt2, opt, bert)] == [64, 48, 40]
    assert position_limit(of_pocket_vocabulary()[0]) is None


def a_resident(model: torch.nn.Module, instruction: str = "Is 2 even?", **training: object) -> LoadedModel:
    example = Example(instruction, "", ("yes", "no"), ("yes", "no"), 0)
    tasks = {"parity": TaskData("parity", train=[], validation=[example], test=[example])}
    return LoadedModel(sweep(**training), model, pocket_tokenizer(), "hash", 1, tasks, [])


def test_texts_and_answers_that_reach_beyond_the_positions_are_refused_with_the_fix():
    model = GPT2LMHeadModel(GPT2Config(n_positions=48, n_embd=32, n_layer=1, n_head=2, vocab_size=300))
    with pytest.raises(
        ValueError, match=r"max_length is 64, but the model has 48 positions; set training.max_length to 48"
    ):
        refuse_positions(model, sweep(max_length=64))
    refuse_positions(model, sweep(max_length=48))
    _refuse_unfit(a_resident(model, max_length=48))
    with pytest.raises(
        ValueError, match=r"task parity has prompts of up to 4\d tokens, and 16 more are generated, but"
    ):
        _refuse_unfit(a_resident(model, "Is 2 even? " * 9, max_length=48))
    _refuse_unfit(a_resident(of_pocket_vocabulary()[0], "Is 2 even? " * 9, max_length=48))


def test_texts_with_tokens_that_the_model_does_not_know_are_refused():
    model, _ = of_pocket_vocabulary()
    model.resize_token_embeddings(200)
    with pytest.raises(
        ValueError, match=r"task parity has token \d+, the model has 200 embeddings; take the tokenizer"
    ):
        _refuse_unfit(a_resident(model, "range 3 4"))


def test_validate_compares_the_length_with_the_table_of_positions(tmp_path, capsys):
    saved(tmp_path / "model", GPT2LMHeadModel(GPT2Config(n_positions=48, n_embd=32, n_layer=1, n_head=2, **ids())))
    own = [f"model.name={tmp_path / 'model'}", "training.max_length=64"]
    assert main(["validate", QUICKSTART, *(word for each in own for word in ("--set", each))]) == 2
    assert "64 is not allowed; the model has 48 positions, so give 48 or less" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ({"zero_optimization": {"nonsense": 1}}, "DeepSpeed refuses it: nonsense: Extra inputs are not permitted"),
        ({"zero_optimization": {"overlap_comm": "maybe"}}, "overlap_comm: Input should be a valid boolean"),
        ({"communication_data_type": "fp17"}, "Invalid communication_data_type"),
        ({"sparse_attention": {}}, "Sparse Attention has been removed"),
        ({"wall_clock_breakdown": "x"}, "unsupported operand"),
        ({"zero_optimisation": {}}, "DeepSpeed has no section zero_optimisation; did you mean zero_optimization?"),
        ({"data_types": {"grad_acum_dtype": "fp32"}}, "no data_types.grad_acum_dtype; did you mean grad_accum_dtype?"),
        ({"data_types": {"grad_accum_dtype": "fp32x"}}, "data_types.grad_accum_dtype: 'fp32x' is not allowed; give"),
        ({"data_types": {"grad_accum_dtype": "fp32"}}, "fp32 with bfloat16 weights is not allowed at zero_stage 1"),
        ({"data_types": {"param_dtype": "fp32"}}, "data_types.param_dtype is not model.dtype"),
        ({"data_types": {"grad_accum_dtype": "bf16"}}, None),
        ({"steps_per_print": 5, "zero_optimization": {"overlap_comm": False}, "flops_profiler": {}}, None),
    ],
)
def test_what_deepspeed_would_refuse_or_never_look_at_is_refused_in_a_line(extra, said):
    # 24 is no batch of two ranks' micro-batches of 8: a searched batch_size takes its place.
    training = sweep().training.model_copy(update={"batch_size": 24, "micro_batch_size": 8})
    tried = DeepspeedSpec(extra=extra), training, torch.bfloat16, 2
    if said is None:
        refuse_extra(*tried)
        return
    with pytest.raises(ValueError, match=r"^deepspeed\.extra: ") as refused:
        refuse_extra(*tried)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_doctor_tries_the_extra_of_a_sweep():
    asked = sweep().model_dump()
    asked["deepspeed"]["extra"] = {"communication_data_type": "fp17"}
    (found,) = sweep_checks.extra(Sweep.model_validate(asked))
    assert found.level == "problem"
    assert "deepspeed.extra: DeepSpeed refuses it: Invalid communication_data_type" in found.text
