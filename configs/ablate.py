r"""The paper's comparisons on Aff-Wild2: what each piece of the method is worth.

    fer-jax ablate --config=configs/ablate.py --config.backbone=backbone --config.data=data \
        --workdir=ablation

The base is the recipe of configs/emotic_mae.py; of every other axis one value is changed at a time.
`--config.design=product` with fewer values (`--config.axes.loss=balanced`) crosses them. Cleaning
needs the data prepared once more with --no-clean, the share of synthetic faces such faces. The
token fusion is left out: frozen, it takes maps of patches, 300 GB a view for a million frames; with
fewer frames add `--config.axes.fusion=entry,token,linear,average`:

    fer-jax ablate --config=configs/ablate.py --config.backbone=backbone --config.data=data \
        --config.uncleaned=uncleaned --config.axes.cleaning=on,off \
        --config.synthetic_data=synthetic --config.axes.synthetic=0,0.2,0.5 --workdir=ablation

It has not been run to its end on the real data here; configs/ablate_mini.py has, on drawn people.
"""

from fer_jax.recipes.ablation_config import default_config


def get_config():
    config = default_config()
    config.axes.views = "main+eyes_mouth,main,eyes_mouth,eyes,mouth,eyes_nose_mouth"
    config.axes.fusion = "entry,linear,average"
    config.axes.loss = "balanced,plain,effective,focal,logit_adjusted"
    config.axes.smoothing = "search,none,box:51,box:101"
    config.axes.augmentation = "configured,flip,strong"
    config.axes.encoder = "fine_tuned,frozen,end_to_end"
    view = config.view
    view.epochs = 20
    view.batch_size = 288
    view.model.image_size = 224
    view.sampling.frames_per_video = 300
    view.optimizer.name = "adam"
    view.optimizer.learning_rate = 1e-4
    view.optimizer.scale_by_batch = False
    view.optimizer.schedule = "step"
    view.optimizer.warmup_epochs = 0.0
    both = config.end_to_end
    both.batch_size = 96
    both.sampling.frames_per_video = 300
    both.encoder.image_size = 224
    return config
