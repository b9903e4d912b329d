"""Forty tables of the arena, named before anything was trained on one of them; it loads nothing.

They go on where `new_tables` ended: the same rule, the same package, the same order (`python -m
benchmarks.data.r_tables`). Passed over is

- a table whose family was used in this repository or in the studies behind its recipes: spam, churn, cells, hpc,
  stackoverflow, credit_data, diamonds, Caravan, nycflights, the World Values Survey, gapminder, LaborSupply, Males,
  High School and Beyond, Catsup, ResumeNames, Hdma, Benefits, DoctorAUS (which is DoctorVisits), nwtco, HI, VerbAgg;
- every table but the first of a family: bdf, YouthRisk, SumHes, Births, cps (LaLonde), ratdat, Fertility, nhefs, rwm,
  CPSSW, ebmt, Card (Schooling), the RAND experiment, the General Social Survey, the National Election Studies;
- a table whose upload with seed 0 is right on more than 97 % of the calibration rows (`TOO_EASY`, which is written once
  these have been trained, before anything is calibrated on one).

The first forty of what is left are the arena's, with seeds 0, 1 and 2; each run is scored once. *Better* and *worse*
than a temperature need an interval without 0 and a mean difference of more than 0.0005 (NLL); *harm* is an NLL more
than 1 % above the upload's. A table is better or worse where two of its three runs are, and harmed where one is.
"""

from __future__ import annotations

#: Name and target, in the order of sha256 of the name.
IN_ORDER: dict[str, str] = {
    "Ecdat-Garch": "day",
    "mosaicData-Births": "wday",
    "stevedata-gss_abortion": "partyid",
    "Ecdat-Computers": "premium",
    "plm-SumHes": "com",
    "openintro-mn_police_use_of_force": "sex",
    "carData-BEPS": "gender",
    "mlmRev-ScotsSec": "sex",
    "mlmRev-bdf": "Minority",
    "stevedata-mm_nhis": "empl",
    "Ecdat-Tuna": "Tuna.choice",
    "survival-rotterdam": "size",
    "Ecdat-RetSchool": "col4",
    "DAAG-monica": "hosp",
    "Stat2Data-YouthRisk2007": "DriverLicense",
    "DAAG-cps1": "nodeg",
    "ISLR-Wage": "health_ins",
    "mstate-ebmt1": "score",
    "wooldridge-school93_98": "y98",
    "wooldridge-census2000": "educ",
    "ratdat-surveys": "sex",
    "stevedata-voteincome": "state",
    "pscl-politicalInformation": "govt",
    "plm-Snmesp": "year",
    "openintro-mlb_teams": "world_series_winner",
    "stevedata-anes_partytherms": "govt_biginterests",
    "fpp2-prisonLF": "legal",
    "mlmRev-Gcsemv": "gender",
    "COUNT-mdvis": "age3",
    "AER-CollegeDistance": "region",
    "itsadug-eeg": "Y",
    "openintro-ucla_f18": "special_topic",
    "heplots-TIPI": "married",
    "Ecdat-Schooling": "libcrd14",
    "COUNT-azprocedure": "age75",
    "mlmRev-Contraception": "urban",
    "COUNT-rwm1984": "edlevel4",
    "causaldata-black_politicians": "south",
    "lme4-InstEval": "y",
    "AER-Fertility2": "other",
    "dplyr-storms": "status",
    "wooldridge-mathpnl": "y98",
    "modeldata-taxi": "month",
    "causaldata-close_elections_lmb": "lagdemocrat",
    "Ecdat-DoctorContacts": "black",
    "KMsurv-pneumon": "agepn",
    "Ecdat-Train": "choice",
    "causaldata-nhefs_complete": "older",
    "AER-SmokeBan": "gender",
    "Ecdat-VietNamH": "urban",
    "dragracer-rpdr_contep": "season",
    "wooldridge-jtrain3": "em78",
    "AER-CPSSW8": "region",
    "modeldata-check_times": "status",
    "mosaicData-TenMileRace": "sex",
    "causaldata-gov_transfers": "Participation",
    "DAAG-cricketer": "cause",
    "DAAG-dengue": "NoYes",
    "Ecdat-CRSPday": "month",
    "Ecdat-PatentsHGH": "scisect",
}
#: Passed over once the uploads of seed 0 had been trained (right on 97.9 % to 100 %); nothing else had been run then.
TOO_EASY: tuple[str, ...] = (
    "mosaicData-Births",
    "stevedata-gss_abortion",
    "Ecdat-Computers",
    "plm-SumHes",
    "Stat2Data-YouthRisk2007",
    "DAAG-cps1",
    "wooldridge-school93_98",
    "COUNT-mdvis",
    "AER-CollegeDistance",
    "itsadug-eeg",
    "openintro-ucla_f18",
    "COUNT-rwm1984",
    "wooldridge-mathpnl",
    "causaldata-close_elections_lmb",
    "Ecdat-VietNamH",
    "wooldridge-jtrain3",
    "modeldata-check_times",
    "causaldata-gov_transfers",
    "DAAG-cricketer",
)
ARENA_TABLES = tuple(name for name in IN_ORDER if name not in TOO_EASY)[:40]
