"""MNIST, by the protocols of BADGE, DBAL and BatchBALD."""

from math import isfinite

from deepal.comparison import How, Setting
from sections.base import Claim, Study, row
from sections.claims import apart, around_nothing, copies, gain, interval, labels_to, saturated, times_less

_BATCHBALD, _OF_REPEATED = (f"BatchBALD(num_samples=40000, keep={pool})" for pool in (60000, 180000))
_POWERENTROPY = "Stochastic(of=Entropy)"


def _read_badge(setting: Setting) -> str:
    entropy, random, power = (row(setting, name) for name in ("Entropy", "Random", _POWERENTROPY))
    assert entropy.gain
    assert power.gain
    differences = entropy.curves.values.mean(0) - random.curves.values.mean(0)
    behind, worst = setting.grid[differences < 0], int(differences.argmin())
    lost = entropy.gain.gain.seeds - entropy.gain.wins
    return f"""
        Of entropy this says: with a network that is trained until it fits its labels, asking where all classes together
        are least certain is worse than asking at random for as long as labels are few. The mean of Entropy is below
        Random's from {behind[0]:g} to {behind[-1]:g} labels, most at {setting.grid[worst]:g} ({differences[worst]:+.4f}),
        and at {setting.grid[-1]:g} it is {differences[-1]:+.4f}. Its area is below Random's in
        {lost} of {entropy.gain.gain.seeds} seeds, while `{setting.rows[0].curves.name}` is the best of the
        table, and Margin reads the same probabilities: what hurts is not uncertainty, but which uncertainty. Noise mends
        it: PowerEntropy, `{_POWERENTROPY}`, asks by the same scores with Gumbel noise on their logarithms, and gains
        {power.gain.gain.mean:+.4f} on Random where Entropy gains {entropy.gain.gain.mean:+.4f}. CoreSet, on the 256
        features of so small a network, is behind Random too. Of five seeds Wilcoxon's test cannot say less than 1/16, so
        that after Holm nothing is significant by it; the t tests say more, and assume more.
    """


def _read_dbal(setting: Setting) -> str:
    def to(name: str) -> str:
        each = row(setting, name)
        median = each.targets[1].median
        return f"{median:g}" if isfinite(median) else f"more than {each.curves.reach:g}"

    mean_std, random, bald = (row(setting, name) for name in ("MeanSTD", "Random", "BALD"))
    softmax, drawn = row(setting, "Entropy"), row(setting, "PredictiveEntropy")
    return f"""
        The paper's table, which counts what was asked, and the logs that its authors released, which count all, say of 5
        % error: variation ratios 295 and 340, BALD 335 and 370, MaxEntropy 355 and 370, Random 835 and 880. Here it takes
        {to("VariationRatio")}, {to("BALD")}, {to("PredictiveEntropy")} and {to("Random")} labels. MeanSTD is the strategy
        for which the paper reports 695 labels (the logs 690), nearly as many as for Random. The released scripts
        collect each draw's probabilities without the index of the draw, so that all deviations are zero and what is asked
        is arbitrary. Computed as the paper defines it, it takes {to("MeanSTD")} labels, and its area up to
        {setting.grid[-1]:g} labels is {mean_std.area.mean:.4f}, beside {bald.area.mean:.4f} of BALD and
        {random.area.mean:.4f} of Random: what is known of MeanSTD is of a mistake in a script. `Entropy` is MaxEntropy of
        one pass without dropout: it takes {to("Entropy")} labels, and its area is {softmax.area.mean:.4f}, beside
        {drawn.area.mean:.4f} of 100 draws. A negative result: that draws help, which the logs show by .0227 of area up to
        1,000 labels, three seeds to 450 labels do not show.
    """


def _read_batchbald(setting: Setting) -> str:
    batch, bald = row(setting, _BATCHBALD), row(setting, "BALD")
    full, queries = saturated(setting, _BATCHBALD, 100)
    return f"""
        The runs that the authors released, six of each, come to 90 % with 105 labels (from 80 to 120) by BatchBALD and
        with 155 (from 130 to 200) by BALD. These end at {setting.grid[-1]:g} labels; the means there are
        {batch.final.mean:.4f} and {bald.final.mean:.4f}. In {full} of {queries} queries the ten labels of BatchBALD say
        nine tenths or more of what 100 draws can tell apart (ln 100 = 4.61 nats): the last of them are chosen by noise, and
        more draws would be needed to choose them better. Open: Random, six seeds, and 300 labels, by `deepal study
        configs/reproduce/batchbald_mnist.yaml --data.root DATA`, which a scan of 100 draws over 59,000 images makes a
        matter of a GPU.
    """


def _read_repeated(setting: Setting) -> str:
    names = ("BALD", _OF_REPEATED, "Stochastic(of=BALD)", "Random")
    copied = ", ".join(f"{copies(setting, name, 2000):.2f} ({name})" for name in names)
    full, queries = saturated(setting, _OF_REPEATED, 10)
    power = row(setting, "Stochastic(of=BALD)").gain
    assert power is not None
    return f"""
        Copies of an image that is in the same query of ten already, on average over all queries: {copied}. In {full} of
        {queries} queries the ten labels of BatchBALD say nine tenths or more of what 10 draws can tell apart (ln 10 = 2.30
        nats), so that the last of them are chosen by noise. PowerBALD, `Stochastic(of=BALD)`, reads the same scores as BALD
        and asks for no copies, because it does not always ask for the largest; it gains {power.gain.mean:+.4f} on Random.
        Published, for all 60,000 images and six seeds: BatchBALD .080 of AULC above BALD and .051 above Random, BALD .029
        below Random. Open: the whole set, by `deepal study configs/reproduce/batchbald_repeated_mnist.yaml
        --data.base.root DATA`.
    """


BADGE = Study(
    name="badge_mnist",
    title="MNIST, the protocol of BADGE",
    protocol="""
        Ash et al., 2020: all 60,000 training images to label; 100 labels at random to begin with, 100 a cycle, to 1,000.
        An MLP with one hidden layer of 256 units and no bias on its head, drawn anew in each cycle, trained with Adam
        (1e-3, batches of 64, no augmentation) until it is right on 99 % of its training images. For one seed all
        strategies start from the same labels and the same weights. The paper has figures and no table; they say that with
        an MLP and small queries BADGE and margin sampling are about equal, and the best.
    """,
    commands=["deepal study configs/study/badge_mnist.yaml --data.root DATA --workers 2"],
    how=How(targets=(0.9,)),
    claims=(
        Claim("BADGE gains on Random: the interval lies above 0", interval("BADGE", above=True)),
        Claim("Margin gains on Random: the interval lies above 0", interval("Margin", above=True)),
        Claim("Random against itself (A/A): the interval holds 0", around_nothing),
        Claim("PowerEntropy has a larger AULC than Entropy, with t > 2", apart(_POWERENTROPY, "Entropy", 0, t=2)),
    ),
    reading=_read_badge,
)

_DBAL_COMMAND = "deepal study configs/reproduce/dbal_mnist.yaml --data.root DATA"

DBAL = Study(
    name="dbal_mnist",
    title="MNIST, the protocol of DBAL",
    protocol="""
        Gal, Islam & Ghahramani, 2017, and their released scripts: two labels of each class to begin with, 10 a cycle,
        chosen among 2,000 images of the pool that are drawn anew in each cycle, by 100 draws of dropout. Two convolutions
        of 4x4 and a hidden layer of 128 units, dropout 0.25 and 0.5, drawn anew in each cycle; 50 epochs of Adam (1e-3,
        batches of 128); 2.5 / labels times the squared weights of the hidden layer are added to the loss. Tested by one
        pass with dropout off, as the scripts do. BALD, VariationRatio and PredictiveEntropy (MaxEntropy) go to 450
        labels, MeanSTD and Entropy to 600, tested every 20 labels; Random goes to 1,000, tested every 50, in between
        which it needs no model. Images are standardised by the mean and deviation of the training images, and weights
        begin as torch draws them; the scripts scale by 255, and Keras draws otherwise.
    """,
    commands=[
        f"{_DBAL_COMMAND} --strategies '[BALD,VariationRatio,PredictiveEntropy]' --budget 450 --test_every 20",
        f"{_DBAL_COMMAND} --strategies '[MeanSTD,Entropy]' --budget 600 --test_every 20",
        f"{_DBAL_COMMAND} --strategies '[Random]' --budget 1000 --test_every 50",
    ],
    how=How(targets=(0.9, 0.95)),
    claims=(
        Claim("Random needs 1.8 times the labels of BALD to 5 % error, at least", times_less("BALD", 1, 1.8)),
        Claim("and 2.0 times those of VariationRatio", times_less("VariationRatio", 1, 2.0)),
        Claim("draws of dropout help MaxEntropy by .01 of AULC", apart("PredictiveEntropy", "Entropy", 0.01)),
    ),
    reading=_read_dbal,
)

BATCHBALD = Study(
    name="batchbald_mnist",
    title="MNIST, the protocol of BatchBALD",
    protocol="""
        Kirsch, van Amersfoort & Gal, 2019, and their released code: two labels of each class to begin with, 10 a cycle,
        chosen among all images by 100 draws of dropout with masks that all of them share, and 40,000 samples of joint
        outcomes. Two convolutions of 5x5 with channel dropout and 128 units with dropout, drawn anew in each cycle; an
        epoch is 79 full batches of 64, with images in them more than once, up to 30 of them, until three in a row are no
        better on 1,024 validation images that come on top of the labels. Tested by the average of 100 draws.
    """,
    commands=[
        "deepal study configs/reproduce/batchbald_mnist.yaml --data.root DATA --strategies '[BALD,{class_path: BatchBALD, "
        "init_args: {num_samples: 40000, keep: 60000}}]' --seeds 3 --budget 120"
    ],
    how=How(targets=(0.9,)),
    claims=(
        Claim(
            "BatchBALD comes to 90 % with 80 to 130 labels (median)", labels_to(_BATCHBALD, 0, lambda at: 80 <= at <= 130)
        ),
        Claim("BatchBALD has a larger AULC than BALD", apart(_BATCHBALD, "BALD", 0)),
    ),
    reading=_read_batchbald,
)

REPEATED = Study(
    name="batchbald_repeated_mnist",
    title="MNIST three times over, the protocol of BatchBALD",
    protocol="""
        As above, but each image three times, with noise of deviation 0.1 on normalised pixels, and 10 draws; of 2,000
        images of MNIST, in place of 60,000.
    """,
    commands=[
        "deepal study configs/reproduce/batchbald_repeated_mnist.yaml --data.base.root DATA --data.sources 2000 --seeds 3 "
        "--budget 200"
    ],
    how=How(targets=(0.9,)),
    claims=(
        Claim("BatchBALD has an AULC .04 above BALD's at least", apart(_OF_REPEATED, "BALD", 0.04)),
        Claim("and .02 above Random's", apart(_OF_REPEATED, "Random", 0.02)),
        Claim("BALD gains .01 on Random at most", gain("BALD", lambda mean: mean <= 0.01)),
    ),
    reading=_read_repeated,
)
