# What modelbake's images are measured against: the same MiniLM files on the same base, with torch and sentence-transformers.

FROM scratch AS wheels
# The files that `modelbake fetch minilm-l6-v2` brings.
FROM scratch AS model
FROM scratch AS bench

FROM base-image AS builder
USER 0:0
ENV PIP_DISABLE_PIP_VERSION_CHECK=1
COPY locks/torch.txt locks/torch-cpu.txt locks/convert.txt scripts/install_torch.sh /opt/locks/
ARG TORCH_INDEX
# The locked versions, and of them only what sentence-transformers asks for.
RUN --mount=type=cache,id=modelbake-pip,target=/tmp/.cache/pip \
    --mount=type=secret,id=pipconf,target=/etc/pip.conf \
    --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt \
    --mount=type=bind,from=wheels,target=/mnt/wheels \
    python3 -m venv /opt/venv \
    && bash /opt/locks/install_torch.sh /opt/venv/bin/python /opt/locks "${TORCH_INDEX}" \
    && sed -nE 's/^([a-z0-9.-]+==[^ ]+).*/\1/p' /opt/locks/convert.txt >/opt/locks/versions.txt \
    && /opt/venv/bin/pip install --no-compile --constraint /opt/locks/versions.txt sentence-transformers \
    && /opt/venv/bin/pip uninstall --yes --quiet setuptools pip
# As in modelbake's runtime; one file of torch's own tests is written for a newer Python.
RUN python3 -m compileall -q -x 'torch/testing/_internal/py312' --invalidation-mode unchecked-hash /opt/venv/lib

FROM base-image
COPY --link --from=builder /opt/venv/ /opt/venv/
COPY --link --from=model / /models/
COPY --link --from=bench embed_torch.py /opt/embed.py
ENV HF_HUB_OFFLINE=1
USER 65532:65532
HEALTHCHECK NONE
ENTRYPOINT ["python3", "/opt/embed.py"]
