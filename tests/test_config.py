import pytest

from labkit.checkpoint import RunFolder
from labkit.config import PRESETS, TrainConfig
from labkit.utils import UserError


def test_settings_survive_yaml(tmp_path):
    config = TrainConfig(loss="triplet", lr=0.01, val_dir="v", val_list="p.csv", margin=0.2)
    config.to_yaml(tmp_path / "config.yaml")
    assert TrainConfig.from_yaml(tmp_path / "config.yaml") == config
    assert TrainConfig.from_yaml(tmp_path / "config.yaml", lr=0.5).lr == 0.5
    assert TrainConfig(lr=1, margin=0).lr == 1
    (tmp_path / "c.yaml").write_text("lr: 1e-3\n")
    assert TrainConfig.from_yaml(tmp_path / "c.yaml").lr == 0.001


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bach_size: 3", "no setting 'bach_size': did you mean batch_size?"),
        ("nothing_like_it: 3", "no setting 'nothing_like_it'"),
        ("- a\n- b", "must hold lines of the form"),
        ("a: [1", "not valid YAML on line"),
        ("batch_size: many", "batch_size must be a whole number, found 'many'"),
        ("batch_size: 1", "batch_size must be 2 or more, found 1"),
        ("lr: -1", "lr must be above 0"),
        ("lr_decay: 0", "lr_decay must be above 0"),
        ("mirror: 1", "mirror must be true or false"),
        ("margin: x", "margin must be a number or nothing"),
        ("val_dir: x", "val_dir and val_list belong together"),
        ("optimizer: lion", "unknown optimizer 'lion'; choose one of adam, adamw, sgd"),
        ("scheduler: cosin", r"unknown scheduler 'cosin'; did you mean cosine\?"),
        ("{scheduler: cosine, min_lr: 0.1}", r"min_lr must lie between 0 and lr \(0.001\)"),
        ("{scheduler: cosine_restart, min_lr: -1}", "min_lr must lie between 0 and lr"),
    ],
)
def test_a_wrong_setting_is_one_clear_line(tmp_path, text, message):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        TrainConfig.from_yaml(path)
    assert "\n" not in str(caught.value)


def test_a_wrong_name_in_code_names_the_nearest_setting():
    with pytest.raises(UserError, match="no setting 'epochs': did you mean max_epoch?"):
        TrainConfig(epochs=2)


@pytest.mark.parametrize(
    ("name", "spellings"),
    [
        ("steplr", "steplr StepLR step"),
        ("cosine", "cosine COSINE CosineLR cosine_annealing"),
        ("cosine_restart", "cosine_restart cosine-restart cosineRestartlr cosineWarmRestart"),
    ],
)
def test_schedules_and_optimizers_are_known_by_the_names_of_the_field(name, spellings):
    assert {TrainConfig(scheduler=word).scheduler for word in spellings.split()} == {name}
    assert [TrainConfig(optimizer=word).optimizer for word in ("Adam", "AdamW")] == [
        "adam",
        "adamw",
    ]


def test_a_run_whose_settings_file_spells_a_schedule_otherwise_resumes(tmp_path):
    folder, config = RunFolder(tmp_path), TrainConfig(scheduler="cosine")
    with folder.open(config):
        folder.save_state({})
    text = folder.config_file.read_text()
    folder.config_file.write_text(text.replace("scheduler: cosine", "scheduler: CosineAnnealing"))
    with folder.open(config):
        assert folder.load_state() == {}
    with pytest.raises(UserError, match="other settings: scheduler"):
        folder.open(TrainConfig(scheduler="step")).__enter__()


def test_a_tilde_is_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/kim")
    config = TrainConfig(run_dir="~/run", val_dir="~/v", val_list="~/v.csv", train_dir="a/~b")
    assert (config.run_dir, config.val_list) == ("/home/kim/run", "/home/kim/v.csv")
    assert config.train_dir == "a/~b"


def test_the_paper_preset_is_the_recipe():
    pretrain, finetune = PRESETS["paper"].pretrain, PRESETS["paper"].finetune
    recipe = dict(model="ThinResNet34", embedding_size=512, image_size=224, optimizer="adam")
    recipe |= dict(max_images_per_class=100, batch_size=200, min_lr=1e-5, restart_epochs=10)
    first = dict(loss="amsoftmax", margin=0.1, scale=30, lr=0.001, lr_decay=0.9, lr_step_epochs=5)
    first |= dict(scheduler="steplr", max_epoch=70, images_per_class=1)
    second = dict(loss="angleproto", images_per_class=2, lr=0.0005)
    second |= dict(scheduler="cosine_restart", max_epoch=50)
    for config, wanted in ((pretrain, recipe | first), (finetune, recipe | second)):
        assert {name: getattr(config, name) for name in wanted} == wanted


def test_every_preset_fills_its_batches():
    for chosen in PRESETS.values():
        assert chosen.pretrain.batch_size <= chosen.faces[0]
        assert chosen.finetune.batch_size <= chosen.faces[2]
