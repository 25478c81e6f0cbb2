# One hub: its interface, address, role, and the group of one that launches it.

terraform {
  required_version = ">= 1.5"
  required_providers {
    aws = { source = "hashicorp/aws", version = ">= 5.0" }
  }
}

# The instance's only interface. It outlives the instance, and the addresses and
# routes stay with it.
resource "aws_network_interface" "this" {
  description       = "privnet hub ${var.name}"
  subnet_id         = var.subnet_id
  security_groups   = [var.security_group_id]
  source_dest_check = false
  tags              = { Name = "privnet-hub-${var.name}" }
}

resource "aws_eip" "this" {
  domain = "vpc"
  tags   = { Name = "privnet-hub-${var.name}" }
}

resource "aws_eip_association" "this" {
  allocation_id        = aws_eip.this.id
  network_interface_id = aws_network_interface.this.id
}

resource "aws_iam_role" "this" {
  name               = "privnet-hub-${var.region}-${var.name}"
  assume_role_policy = var.documents.trust
}

resource "aws_iam_role_policy" "this" {
  for_each = var.documents.policies
  name     = each.key
  role     = aws_iam_role.this.id
  policy   = each.value
}

resource "aws_iam_instance_profile" "this" {
  name = aws_iam_role.this.name
  role = aws_iam_role.this.name
}

resource "aws_launch_template" "this" {
  name_prefix            = "privnet-hub-${var.name}-"
  image_id               = var.image_id
  instance_type          = var.instance_type
  update_default_version = true
  # /etc/privnet/hub.toml, whole.
  user_data = base64encode(var.documents.config)

  iam_instance_profile {
    arn = aws_iam_instance_profile.this.arn
  }
  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }
  network_interfaces {
    device_index         = 0
    network_interface_id = aws_network_interface.this.id
  }
  tag_specifications {
    resource_type = "volume"
    tags          = { Name = "privnet-hub-${var.name}" }
  }
}

# One, because there is one interface: in its zone, without subnets.
resource "aws_autoscaling_group" "this" {
  name_prefix               = "privnet-hub-${var.name}-"
  min_size                  = 1
  max_size                  = 1
  desired_capacity          = 1
  availability_zones        = [var.zone]
  health_check_type         = "EC2"
  health_check_grace_period = 120

  launch_template {
    id      = aws_launch_template.this.id
    version = aws_launch_template.this.latest_version
  }
  tag {
    key                 = "Name"
    value               = "privnet-hub-${var.name}"
    propagate_at_launch = true
  }
  depends_on = [aws_eip_association.this, aws_iam_role_policy.this]
}

resource "aws_cloudwatch_metric_alarm" "this" {
  count               = var.alarm_topic_arn == "" ? 0 : 1
  alarm_name          = "privnet-hub-${var.name}"
  alarm_description   = "The hub's instance fails its status checks, or there is none"
  namespace           = "AWS/EC2"
  metric_name         = "StatusCheckFailed"
  dimensions          = { AutoScalingGroupName = aws_autoscaling_group.this.name }
  statistic           = "Maximum"
  period              = 60
  evaluation_periods  = 3
  threshold           = 1
  comparison_operator = "GreaterThanOrEqualToThreshold"
  treat_missing_data  = "breaching"
  alarm_actions       = [var.alarm_topic_arn]
  ok_actions          = [var.alarm_topic_arn]
}
