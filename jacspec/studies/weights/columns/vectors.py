"""Columns, on request, of singular vectors and of spacings of singular values beside those of random matrices."""

from collections.abc import Mapping

from jacspec.studies.study import Quantity

THAMM = "Thamm, Staats & Rosenow 2022, Phys. Rev. E 106, 054124"

ATAS = "Oganesyan & Huse 2007; Atas et al. 2013"

VECTORS: Mapping[str, Quantity] = {
    "vectors_p01": Quantity(
        r"$f_{PT}$",
        "share of the singular vectors, left and right, whose entries are no draw of N(0, 1/n) at p ≤ 1 % "
        "(Kolmogorov–Smirnov, calibrated for unit vectors); 0.01 by chance",
        THAMM,
        words="vectors not random",
    ),
    "vectors_beyond": Quantity(
        r"$n_{PT}$",
        "number of these vectors with q < 5 % over those of the matrix",
        THAMM,
        words="vectors not random (q)",
    ),
    "vectors_p01_norms": Quantity(
        r"$f_{PT}^{rc}$",
        "f_PT of one draw of independent Gaussian entries with the matrix's own row and column norms",
        THAMM,
        words="vectors not random, own norms",
    ),
    **{
        name: quantity
        for region, words in (
            ("large", "the tenth with the largest σ"),
            ("bulk", "the eight tenths between"),
            ("small", "the tenth with the smallest σ"),
        )
        for name, quantity in {
            f"vectors_p01_{region}": Quantity(
                rf"$f_{{PT}}^{{\mathrm{{{region}}}}}$",
                f"f_PT of {words}; 0.01 by chance",
                THAMM,
                words=f"vectors not random, {region}",
            ),
            f"participation_{region}": Quantity(
                rf"IPR$^{{\mathrm{{{region}}}}}$",
                f"inverse participation ratio Σv⁴ of {words}, over 3/(n + 2), that of chance: mean; 1 by chance",
                THAMM,
            ),
            f"localised_{region}": Quantity(
                rf"$f_{{loc}}^{{\mathrm{{{region}}}}}$",
                f"share of {words} whose Σv⁴ is above that of 99 % of random vectors; 0.01 by chance",
                THAMM,
            ),
        }.items()
    },
}

SPACINGS: Mapping[str, Quantity] = {
    "brody": Quantity(
        r"Brody's $\beta$",
        "exponent of repulsion of the unfolded spacings, maximum likelihood: 0 of values that know nothing of one "
        "another (Poisson), about 0.95 of random matrices",
        f"Brody 1973; {THAMM}",
    ),
    "brody_error": Quantity(r"$\sigma_\beta$", "its standard error, from the curvature", "Brody 1973"),
    "spacing_ratio": Quantity(
        r"$\langle\tilde{r}\rangle$",
        "mean ratio of the smaller to the larger of neighbouring spacings of σ: 0.5307 of random matrices (GOE), "
        "0.3863 of Poisson",
        ATAS,
    ),
    "spacing_ratio_error": Quantity(r"$\sigma_r$", "its standard error", ATAS),
    "number_variance": Quantity(
        r"$\Sigma^2(2)$",
        "variance of the number of σ in an interval of two mean spacings, unfolded: 0.58 of random matrices (GOE), 2 "
        "of Poisson",
        THAMM,
    ),
    **{
        f"spacing_ratio_{region}": Quantity(
            rf"$\langle\tilde{{r}}\rangle^{{\mathrm{{{region}}}}}$", f"the mean ratio in {words}; none below 16", ATAS
        )
        for region, words in (
            ("large", "the largest tenth of σ"),
            ("bulk", "the eight tenths between"),
            ("small", "the smallest tenth"),
        )
    },
}
