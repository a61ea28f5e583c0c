import pytest

from labkit.config import PRESETS, TrainConfig, preset
from labkit.utils import UserError


def test_settings_survive_yaml(tmp_path):
    config = TrainConfig(loss="triplet", lr=0.01, val_dir="v", val_list="p.csv", margin=0.2)
    config.to_yaml(tmp_path / "config.yaml")
    assert TrainConfig.from_yaml(tmp_path / "config.yaml") == config
    assert TrainConfig.from_yaml(tmp_path / "config.yaml", lr=0.5).lr == 0.5


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
        ("mirror: 1", "mirror must be true or false"),
        ("margin: x", "margin must be a number or nothing"),
        ("val_dir: x", "val_dir and val_list belong together"),
    ],
)
def test_a_wrong_setting_is_one_clear_line(tmp_path, text, message):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        TrainConfig.from_yaml(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "wrong", [lambda: TrainConfig(epochs=2), lambda: preset("demo").stage("pretrain", epochs=2)]
)
def test_a_wrong_name_in_code_names_the_nearest_setting(wrong):
    with pytest.raises(UserError, match="no setting 'epochs': did you mean max_epoch?"):
        wrong()


def test_numbers_may_be_whole_or_in_scientific_notation(tmp_path):
    assert TrainConfig(lr=1, margin=0).lr == 1
    (tmp_path / "c.yaml").write_text("lr: 1e-3\n")
    assert TrainConfig.from_yaml(tmp_path / "c.yaml").lr == 0.001


def test_the_paper_preset_is_the_recipe():
    pretrain, finetune = PRESETS["paper"].pretrain, PRESETS["paper"].finetune
    assert (pretrain.model, pretrain.embedding_size, pretrain.image_size) == (
        "ThinResNet34",
        512,
        224,
    )
    assert (pretrain.loss, pretrain.margin, pretrain.scale) == ("amsoftmax", 0.1, 30)
    assert (pretrain.optimizer, pretrain.lr, pretrain.lr_decay) == ("adam", 0.001, 0.9)
    assert (pretrain.lr_step_epochs, pretrain.max_epoch, pretrain.batch_size) == (5, 70, 200)
    assert (pretrain.scheduler, pretrain.max_images_per_class) == ("steplr", 100)
    assert (finetune.loss, finetune.images_per_class, finetune.lr) == ("angleproto", 2, 0.0005)
    assert (finetune.restart_epochs, finetune.min_lr) == (10, 1e-5)
    assert (finetune.scheduler, finetune.max_epoch) == ("cosine_restart", 50)
    assert 200 <= finetune.batch_size <= 250


def test_every_preset_fills_its_batches():
    for chosen in PRESETS.values():
        assert chosen.pretrain.batch_size <= chosen.faces["world_identities"]
        assert chosen.finetune.batch_size <= chosen.faces["train_identities"]


def test_an_unknown_preset_is_one_clear_line():
    with pytest.raises(UserError, match="choose one of smoke, demo, paper"):
        preset("huge")
