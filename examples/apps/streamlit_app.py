"""Expressions in a Streamlit page: upload or photograph, drawing and table.

pip install fervor streamlit pandas && streamlit run streamlit_app.py
"""

import pandas as pd
import streamlit as st

from fervor import Predictor, draw


@st.cache_resource  # one for all visitors
def opened() -> Predictor:
    """The embedded model."""
    return Predictor()


st.title("Which expression is shown?")
file = st.file_uploader("A picture", type=["jpg", "jpeg", "png", "webp"])
if file is not None:
    faces = opened()(file)
    if faces:
        st.image(draw(file, faces))
        st.dataframe(pd.DataFrame([{"face": one.face, **one.probabilities} for one in faces]))
    else:
        st.warning(f"No face was found in {file.name}.")
st.caption("The expression as people would name it; not what a person feels.")
