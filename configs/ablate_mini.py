r"""The comparisons of docs/evidence.md on drawn people: 80 videos of a mini Aff-Wild2, two cores.

    python tools/make_mini_affwild2.py mini --videos 80 \
        --faults corrupt_image,non_face,blurred,low_resolution,small_image
    fer-jax prepare affwild2 mini --out data
    fer-jax prepare affwild2 mini --no-clean --out uncleaned
    fer-jax prepare images faces --csv faces/labels.csv --labels affwild2_expr --out synthetic
    fer-jax ablate --config=configs/ablate_mini.py --config.data=data \
        --config.uncleaned=uncleaned --config.synthetic_data=synthetic \
        --config.backbone=backbone_run/bundle --workdir=ablation

The backbone is that of configs/ablate_mini_backbone.py; the synthetic faces are
`write_synthetic_faces("faces", identities=200, images_per_identity=16, seed=77)` of
`fer_jax.data.synthetic`. The people of all parts and sets are different ones.
"""

from fer_jax.recipes.ablation_config import default_config


def get_config():
    config = default_config()
    config.axes.views = "main+eyes_mouth,main,eyes_mouth,eyes,mouth,eyes_nose_mouth"
    config.axes.fusion = "linear,entry,token,average"
    config.axes.attention = "both,self,local,none"
    config.axes.loss = "balanced,plain,effective,focal,logit_adjusted"
    config.axes.smoothing = "search,none,box:11,median:11"
    config.axes.cleaning = "on,off"
    config.axes.augmentation = "configured,none,strong"
    config.axes.synthetic = "0,0.5"
    config.axes.encoder = "fine_tuned,frozen"
    view = config.view
    view.epochs = 10
    view.batch_size = 64
    view.selection = 0.15
    view.checkpoint_every = 2
    view.sampling.frames_per_video = 40
    view.model.drop_path = 0.0
    view.model.head_init = 0.05
    view.model.pool = "cls"
    view.model.scan_layers = False
    view.augment.crop_scale = (0.85, 1.0)
    view.augment.crop_ratio = (0.95, 1.05)
    view.optimizer.learning_rate = 2e-3  # for 256 faces; 5e-4 for these 64
    view.optimizer.layer_decay = 0.75
    view.optimizer.warmup_epochs = 1.0
    view.loss.label_smoothing = 0.1
    fuse = config.fuse
    fuse.epochs = 12
    fuse.batch_size = 256
    fuse.selection = 0.15
    fuse.checkpoint_every = 3
    fuse.model.width = 128
    fuse.model.hidden = 64
    fuse.model.num_heads = 4
    fuse.optimizer.learning_rate = 1e-3
    config.smoothing.kernels = "box,gaussian,median"
    config.smoothing.windows = "5,11,21,31,51"
    return config
