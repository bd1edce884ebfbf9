"""Expressions over HTTP with FastAPI: a route of your own beside the rest of your service.

    pip install "fervor[serve]" && uvicorn fastapi_app:app
    curl -F file=@portrait.jpg http://127.0.0.1:8000/expressions

`fervor serve` is a whole server with limits and a page; this shows the smallest one.
"""

from typing import Annotated, Any

from fastapi import FastAPI, File, HTTPException, UploadFile

from fervor import Predictor


app = FastAPI()
predictor = Predictor()  # opened once, shared by the threads that answer


@app.post("/expressions")
def expressions(file: Annotated[UploadFile, File()]) -> list[dict[str, Any]]:
    """The rows of one picture: its faces, or one row that says that there is none."""
    rows = predictor.rows(file.file)  # a plain function: FastAPI runs it in a thread
    if rows[0]["status"] == "error":
        raise HTTPException(415, rows[0]["error"])
    return rows
